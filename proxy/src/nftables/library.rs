//! The library that the `nft` program is made of, in this process: the same scripts, without a program's start.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

/// What Linux distributions install beside the program, which cannot run without it.
const NAME: &CStr = c"libnftables.so.1";

type New = unsafe extern "C" fn(c_uint) -> *mut c_void;
type Run = unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int;
type Buffer = unsafe extern "C" fn(*mut c_void) -> c_int;
type Text = unsafe extern "C" fn(*mut c_void) -> *const c_char;

/// One context, made at the start and never again.
/// NOTE: making one ends the process where no socket can be had (the library calls exit), as when file descriptors have
/// run out: at the start they have not.
pub struct Library {
    context: *mut c_void,
    run: Run,
    errors: Text,
}

// SAFETY: the context has no ties to a thread; `&mut self` keeps its users one after the other.
unsafe impl Send for Library {}

impl Library {
    /// None where the library is not there, or is another version.
    pub fn open() -> Option<Self> {
        // SAFETY: the names are C strings; the types are those of libnftables.h, whose soname this is.
        unsafe {
            let handle = libc::dlopen(NAME.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            if handle.is_null() {
                return None;
            }
            let new: New = std::mem::transmute(symbol(handle, c"nft_ctx_new")?);
            let run: Run = std::mem::transmute(symbol(handle, c"nft_run_cmd_from_buffer")?);
            let buffer_output: Buffer = std::mem::transmute(symbol(handle, c"nft_ctx_buffer_output")?);
            let buffer_errors: Buffer = std::mem::transmute(symbol(handle, c"nft_ctx_buffer_error")?);
            let errors: Text = std::mem::transmute(symbol(handle, c"nft_ctx_get_error_buffer")?);
            let context = new(0);
            if context.is_null() || buffer_output(context) != 0 || buffer_errors(context) != 0 {
                return None;
            }
            Some(Library { context, run, errors })
        }
    }

    /// Runs a script as one transaction.
    pub fn run(&mut self, script: &str) -> Result<(), String> {
        let script = CString::new(script).map_err(|error| error.to_string())?;
        // SAFETY: the context lives as long as we do; the script as long as the call; the buffer until the next call.
        unsafe {
            if (self.run)(self.context, script.as_ptr()) == 0 {
                return Ok(());
            }
            let text = (self.errors)(self.context);
            if text.is_null() {
                return Err("no reason given".into());
            }
            Err(CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    }
}

/// SAFETY: `handle` is one of dlopen's.
unsafe fn symbol(handle: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the caller's, and the name is a C string.
    let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}
