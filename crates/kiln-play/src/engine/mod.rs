//! The engine: from a question to its answers.
//!
//! ```text
//! shelf.rs         the models in reach
//! facts.rs         what a model is
//! drawing.rs       how to draw, from the page's words to the pipeline's; Draw, Redraw, Inpaint, Between
//! walk.rs          one image from noise to clean; what guidance changes on the way
//! curve.rs         schedules
//! first_stage.rs   through the first stage
//! inversion.rs     from a picture back to its noise
//! losses.rs        errors by level
//! nearest.rs       training images like a picture
//! run.rs           how a training goes
//! pictures.rs      images to the page's pixels and back
//! ```

mod curve;
mod drawing;
mod facts;
mod first_stage;
mod inversion;
mod losses;
mod nearest;
mod pictures;
mod run;
mod shelf;
mod walk;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;
use kiln_kernels::MODEL_IS_GONE;
use kiln_pipeline::{Error, Pipeline};

use crate::protocol::{Answer, Answered, Ask, Question, from_message, to_message};
use pictures::Bytes;

pub use shelf::Shelf;

/// How many models stay in memory.
const LOADED: usize = 4;

/// Answers questions with the models of a shelf.
pub struct Engine<S> {
    shelf: S,
    device: Device,
    /// The models in memory by name, the last one used at the end.
    places: Mutex<Vec<(String, Place)>>,
}

/// Where a model is in memory, once it is loaded.
type Place = Arc<Mutex<Option<Arc<Pipeline>>>>;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The model cannot do it, or is damaged.
    #[error(transparent)]
    Model(#[from] Error),
    /// The question makes no sense.
    #[error("{0}")]
    Question(String),
    /// The page has left.
    #[error("the page has left")]
    Gone,
}

impl From<burn::tensor::TensorReadError> for Refusal {
    fn from(error: burn::tensor::TensorReadError) -> Self {
        Self::Model(Error::from(error))
    }
}

impl From<kiln_diffusion::DiffusionError> for Refusal {
    fn from(error: kiln_diffusion::DiffusionError) -> Self {
        Self::Model(Error::from(error))
    }
}

/// Who hears the answers to a question.
pub trait Listener {
    /// Takes a message. Returns whether more are wanted.
    fn hear(&mut self, message: Vec<u8>) -> bool;

    /// Whether anybody still waits. Long work asks this between its steps.
    fn is_there(&self) -> bool {
        true
    }
}

impl<F: FnMut(Vec<u8>) -> bool> Listener for F {
    fn hear(&mut self, message: Vec<u8>) -> bool {
        self(message)
    }
}

/// Tells the answers to a question.
struct Tell<'a> {
    /// The number of the question.
    id: u32,
    listener: &'a mut dyn Listener,
}

impl Tell<'_> {
    /// Tells an answer with its pictures.
    fn tell(&mut self, answer: Answer, bytes: Bytes) -> Result<(), Refusal> {
        let answered = Answered {
            id: self.id,
            answer,
        };
        let message = to_message(&answered, &bytes.0)
            .map_err(|error| Refusal::Question(error.to_string()))?;
        match self.listener.hear(message) {
            true => Ok(()),
            false => Err(Refusal::Gone),
        }
    }

    /// Fails when nobody waits any more.
    fn check(&self) -> Result<(), Error> {
        match self.listener.is_there() {
            true => Ok(()),
            false => Err(Error::Stopped),
        }
    }
}

impl<S: Shelf> Engine<S> {
    /// An engine that computes on `device`.
    pub fn new(shelf: S, device: Device) -> Self {
        Self {
            shelf,
            device,
            places: Mutex::default(),
        }
    }

    /// The models in reach.
    pub fn shelf(&self) -> &S {
        &self.shelf
    }

    /// Answers the question in a message, see [`protocol`](crate::protocol), with messages to `listener`. A message that is no
    /// question has no answer but an error.
    ///
    /// # Errors
    /// A sentence about what is wrong with the message.
    pub fn answer(&self, message: &[u8], listener: &mut dyn Listener) -> Result<(), String> {
        let (Question { id, ask }, bytes) = from_message(message)?;
        let mut tell = Tell { id, listener };
        // A fault of kiln's own is told, too. WebAssembly cannot catch it.
        let replied = catch_unwind(AssertUnwindSafe(|| self.reply(&ask, bytes, &mut tell)));
        let last = match replied {
            Ok(Ok(())) => Answer::Done,
            Ok(Err(Refusal::Gone | Refusal::Model(Error::Stopped))) => return Ok(()),
            Ok(Err(refusal)) => Answer::Refused {
                sentence: refusal.to_string(),
            },
            Err(panic) => {
                let sentence = self.sentence_of(&*panic);
                Answer::Refused { sentence }
            }
        };
        // If nobody is there to hear it, nothing is lost.
        let _ = tell.tell(last, Bytes::default());
        Ok(())
    }

    fn reply(&self, ask: &Ask, bytes: &[u8], tell: &mut Tell<'_>) -> Result<(), Refusal> {
        match ask {
            Ask::Models => {
                let models = self.shelf.models();
                tell.tell(Answer::Models { models }, Bytes::default())
            }
            Ask::Runs => {
                let runs = self.shelf.runs();
                tell.tell(Answer::Runs { runs }, Bytes::default())
            }
            Ask::Run { run } => run::follow(&self.shelf, run, tell),
            Ask::RunPicture { run, stage, step } => {
                run::picture(&self.shelf, run, stage, *step, tell)
            }
            Ask::Examine { run } => run::examine(&self.shelf, run, tell),
            Ask::Model { model } => {
                let facts = facts::of(model, &*self.pipeline(model)?);
                tell.tell(Answer::Model(Box::new(facts)), Bytes::default())
            }
            Ask::Draw {
                model,
                drawing,
                watch,
            } => drawing::draw(&*self.pipeline(model)?, drawing, *watch, None, tell),
            Ask::Redraw {
                model,
                drawing,
                watch,
                given,
                strength,
            } => {
                let pipeline = self.pipeline(model)?;
                let original = pictures::read(bytes, given, pipeline.image_shape())?;
                let from = Some((&original, *strength));
                drawing::draw(&pipeline, drawing, *watch, from, tell)
            }
            Ask::Inpaint {
                model,
                drawing,
                given,
            } => drawing::inpaint(&*self.pipeline(model)?, drawing, bytes, given, tell),
            Ask::Invert {
                model,
                drawing,
                given,
                refinements,
            } => {
                let pipeline = self.pipeline(model)?;
                inversion::invert(&pipeline, drawing, bytes, given, *refinements, tell)
            }
            Ask::Between {
                model,
                drawing,
                corners,
                places,
            } => drawing::between(&*self.pipeline(model)?, drawing, *corners, places, tell),
            Ask::Walk {
                model,
                drawing,
                image,
                class,
            } => walk::walk(&*self.pipeline(model)?, drawing, (*image, *class), tell),
            Ask::Push {
                model,
                drawing,
                image,
                class,
            } => walk::push(&*self.pipeline(model)?, drawing, (*image, *class), tell),
            Ask::Schedule {
                schedule,
                steps,
                spacing,
            } => curve::schedule(schedule, *steps, *spacing, tell),
            Ask::Noised {
                given,
                signal_rate,
                noise_rate,
                seed,
            } => curve::noised(bytes, given, [*signal_rate, *noise_rate], *seed, tell),
            Ask::Encode { model, given } => {
                first_stage::encode(&*self.pipeline(model)?, bytes, given, tell)
            }
            Ask::DecodeCodes { model, codes } => {
                first_stage::decode(&*self.pipeline(model)?, codes, tell)
            }
            Ask::Nearest {
                model,
                given,
                count,
            } => {
                let shape = self.pipeline(model)?.image_shape();
                let training = self.shelf.training_images(model, shape);
                let training = training.map_err(Refusal::Question)?;
                nearest::nearest(&training, bytes, (given, shape), *count, tell)
            }
            Ask::Losses {
                model,
                given,
                classes,
                levels,
            } => losses::losses(
                &*self.pipeline(model)?,
                (bytes, given),
                classes,
                *levels,
                tell,
            ),
        }
    }

    /// What to say after a panic.
    fn sentence_of(&self, panic: &(dyn Any + Send)) -> String {
        let message = panic.downcast_ref::<String>();
        match message.filter(|message| message.starts_with(MODEL_IS_GONE)) {
            Some(message) => {
                // The next question loads its model again.
                self.places.lock().unwrap_or_else(PoisonError::into_inner).clear();
                format!("{message}; ask again to load the model as it is now")
            }
            None => "this question is too much for kiln: that is a fault of kiln's own, of which its terminal says more".to_owned(),
        }
    }

    /// The model, from memory or the shelf. While it is loaded, others can be asked.
    fn pipeline(&self, model: &str) -> Result<Arc<Pipeline>, Refusal> {
        let place = self.place(model);
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = &*place {
            return Ok(pipeline.clone());
        }
        let loaded = self.shelf.load(model, &self.device);
        let loaded = loaded.ok_or_else(|| format!("there is no model `{model}` here"));
        let pipeline = Arc::new(loaded.flatten().map_err(Refusal::Question)?);
        *place = Some(pipeline.clone());
        Ok(pipeline)
    }

    /// The model's place in memory, which may be empty. It is now the one used last.
    fn place(&self, model: &str) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let before = places.iter().position(|(name, _)| name == model);
        let place = match before {
            Some(before) => places.remove(before).1,
            None => Place::default(),
        };
        if places.len() >= LOADED {
            places.remove(0);
        }
        places.push((model.to_owned(), place.clone()));
        place
    }
}
