//! Feeds the model loader: the first byte chooses which file of a valid model is replaced, the rest is its new
//! contents.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;

#[path = "../crates/kiln-checkpoint/tests/victim/mod.rs"]
mod victim;

use victim::{FILES, Victim};

thread_local! {
    static VICTIMS: LazyCell<[Victim; FILES.len()]> = LazyCell::new(|| FILES.map(Victim::new));
}

fuzz_target!(|data: &[u8]| {
    if let Some((&which, contents)) = data.split_first() {
        VICTIMS.with(|victims| {
            let victim = &victims[usize::from(which) % FILES.len()];
            // It may load or refuse the model; it must not panic, hang or use memory beyond bounds.
            let _ = victim.load_with(contents);
        });
    }
});
