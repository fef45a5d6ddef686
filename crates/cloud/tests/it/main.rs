//! The cloud controller manager against moto (a simulated AWS, from PyPI), behind a proxy that loses, delays and falsifies
//! answers; and against the real API server in this process. Skipped, loudly, where moto is not installed
//! (scripts/setup), unless SKIFF_REQUIRE_CONTAINERD demands the real parts.

mod cluster;
mod controllers;
mod faults;
mod moto;
