//! Pure, kind-free mechanics of the Kubernetes API
