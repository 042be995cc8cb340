//! Checks whether the model of digits exists, to compile it in. It is too large for a package on crates.io, so only the
//! repository has it. And gives the program the same stack everywhere.

use std::env;
use std::path::Path;

/// The bytes of the main thread's stack on Linux and macOS; Windows would give an eighth.
const STACK: u32 = 8 << 20;

fn main() {
    let model = "../../pretrained/mnist-few-steps";
    println!("cargo::rerun-if-changed={model}");
    println!("cargo::rustc-check-cfg=cfg(with_digits)");
    if Path::new(model).is_dir() {
        println!("cargo::rustc-cfg=with_digits");
    }
    let variable = |name| env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") == "windows" {
        match variable("CARGO_CFG_TARGET_ENV").as_str() {
            "msvc" => println!("cargo::rustc-link-arg-bins=/STACK:{STACK}"),
            _ => println!("cargo::rustc-link-arg-bins=-Wl,--stack,{STACK}"),
        }
    }
}
