//! The files of the page that `kiln play` serves and `kiln web` writes, as `web/build` makes them.

use kiln_play::Asset;

/// The page itself.
pub const PAGE: &[Asset] = &[
    Asset {
        path: "/",
        content_type: "text/html; charset=utf-8",
        bytes: include_bytes!("../page/index.html"),
    },
    Asset {
        path: "/page.js",
        content_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../page/page.js"),
    },
    Asset {
        path: "/page.css",
        content_type: "text/css; charset=utf-8",
        bytes: include_bytes!("../page/page.css"),
    },
];

/// The engine for pages that no program stands behind, by the names of its files.
pub const ENGINE: &[(&str, &[u8])] = &[
    ("worker.js", include_bytes!("../page/worker.js")),
    ("engine.js", include_bytes!("../page/engine.js")),
];

/// The engine's WebAssembly, compressed by gzip.
pub const ENGINE_WASM: &[u8] = include_bytes!("../page/engine.wasm.gz");
