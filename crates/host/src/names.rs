//! How names of machines are resolved, as far as that is not the C library's own business.
//!
//! A static program has its C library with it. What the system's configuration may ask for besides (names of containers,
//! of a local link, of a resolver that runs there) are plugins made for the system's own C library: loaded beside another
//! version of it, one may do anything, a crash included. A static program leaves them alone; name servers and the file of
//! hosts are enough for it. A program that uses the system's library does what the system says.

/// To be called before the first name is resolved.
pub fn without_plugins() {
    if !glibc::configure(c"hosts", c"files dns") {
        tracing::warn!("the C library resolves names as the system says");
    }
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
mod glibc {
    use std::ffi::{CStr, c_char, c_int};

    #[expect(unsafe_code, reason = "the C library's own function, as nss.h declares it")]
    unsafe extern "C" {
        fn __nss_configure_lookup(database: *const c_char, line: *const c_char) -> c_int;
    }

    pub fn configure(database: &CStr, line: &CStr) -> bool {
        // SAFETY: both are strings with an end, which are read during the call only.
        #[expect(unsafe_code, reason = "as above")]
        unsafe {
            __nss_configure_lookup(database.as_ptr(), line.as_ptr()) == 0
        }
    }
}

#[cfg(not(all(target_env = "gnu", target_feature = "crt-static")))]
mod glibc {
    use std::ffi::CStr;

    pub fn configure(_: &CStr, _: &CStr) -> bool {
        true
    }
}
