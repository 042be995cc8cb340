//! The engine of kiln-play for a browser, called from `web/src/worker.ts`. Empty on other targets than wasm32.
#![cfg(target_arch = "wasm32")]

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::Device;
use js_sys::{Function, Uint8Array};
use kiln_checkpoint::ModelSource;
use kiln_pipeline::Pipeline;
use kiln_play::protocol::ModelName;
use kiln_play::{Engine, Shelf};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

/// Answers the page's questions with models whose files the page has fetched.
#[wasm_bindgen]
pub struct BrowserEngine {
    engine: Engine<Fetched>,
}

/// Models of which the page has fetched the files.
struct Fetched {
    /// All models beside the page, fetched or not.
    names: Vec<ModelName>,
    /// The files of each model, by the model's name; `load` takes them.
    files: RefCell<BTreeMap<String, Files>>,
}

/// Contents by name, as [`ModelSource::Memory`] has them.
type Files = BTreeMap<String, bytes::Bytes>;

#[wasm_bindgen]
impl BrowserEngine {
    /// An engine that knows what `models.json` says, and has no files yet.
    ///
    /// # Errors
    /// A sentence, if that is no list of models.
    #[wasm_bindgen(constructor)]
    pub fn new(models: &str) -> Result<Self, JsValue> {
        console_error_panic_hook::set_once();
        let names = serde_json::from_str(models);
        let shelf = Fetched {
            names: names.map_err(|error| JsValue::from_str(&format!("models.json: {error}")))?,
            files: RefCell::default(),
        };
        Ok(Self {
            engine: Engine::new(shelf, Device::flex()),
        })
    }

    /// Adds a file to a model: `file` as in its folder, such as `unet/config.json`.
    pub fn add(&self, model: &str, file: String, bytes: Vec<u8>) {
        let mut files = self.engine.shelf().files.borrow_mut();
        let model = files.entry(model.to_owned()).or_default();
        model.insert(file, bytes.into());
    }

    /// Answers a question with calls of `send`, each with a message, until `send` returns false. Messages are those of
    /// [`kiln_play::protocol`].
    ///
    /// # Errors
    /// A sentence, if `message` is no question.
    pub fn answer(&self, message: &[u8], send: &Function) -> Result<(), JsValue> {
        let mut send = |message: Vec<u8>| {
            let message = Uint8Array::from(message.as_slice());
            let goes_on = send.call1(&JsValue::NULL, &message);
            goes_on.is_ok_and(|goes_on| goes_on.is_truthy())
        };
        (self.engine.answer(message, &mut send)).map_err(|sentence| JsValue::from_str(&sentence))
    }
}

impl Shelf for Fetched {
    fn models(&self) -> Vec<ModelName> {
        self.names.clone()
    }

    fn load(&self, model: &str, device: &Device) -> Option<Result<Pipeline, String>> {
        let source = ModelSource::Memory {
            name: model.to_owned(),
            files: self.files.borrow_mut().remove(model)?,
        };
        Some(Pipeline::from_source(&source, device).map_err(|error| error.to_string()))
    }
}
