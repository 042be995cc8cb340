//! Feeds the model loader: the first byte says which file of a sound model is replaced, the rest is its contents.
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
            // Loading or refusing are both fine; panics, hangs and memory beyond bounds are not.
            let _ = victim.load_with(contents);
        });
    }
});
