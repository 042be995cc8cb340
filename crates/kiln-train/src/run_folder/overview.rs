//! All runs in a folder, and how they are.

use std::path::{Path, PathBuf};

use kiln_data::FolderLock;

use crate::classifier::record::ClassifierRecord;
use crate::run_folder::RunFolder;
use crate::run_folder::label::RunLabel;
use crate::run_folder::record::{RunRecord, StageRecord};

/// How deep runs may lie in a folder of runs: a sweep's are in a folder of their own.
const DEPTH: usize = 3;

/// A run as others see it.
#[derive(Debug)]
pub struct RunOverview {
    /// The folder.
    pub folder: PathBuf,
    /// What people call it.
    pub label: RunLabel,
    /// How it is.
    pub state: RunState,
    /// The stages with at least some training, in order.
    pub stages: Vec<StageRecord>,
}

/// How a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// A process trains it, or is about to.
    Running,
    /// It has the model that it was for.
    Finished,
    /// It has its first stage, and the second one has not begun.
    HasFirstStage,
    /// It was stopped.
    Stopped,
    /// Its config, its label or its metrics cannot be read.
    Damaged(String),
}

impl RunOverview {
    /// The run in `folder`; `None` if there is none.
    pub fn of(folder: &Path) -> Option<Self> {
        let run = RunFolder::new(folder);
        if !run.is_ours() {
            return None;
        }
        let (stages, is_finished, mut damage) = match ClassifierRecord::open(folder) {
            Some(record) => {
                let stages = record.stage.into_iter().collect();
                (stages, run.classifier_weights().exists(), None)
            }
            None => match RunRecord::open(folder) {
                Ok(record) => {
                    let is_finished = record.model().is_some();
                    (record.stages, is_finished, None)
                }
                Err(error) => (Vec::new(), false, Some(error.to_string())),
            },
        };
        let label = RunLabel::read(&run.label()).unwrap_or_else(|error| {
            damage.get_or_insert(error.to_string());
            RunLabel::default()
        });
        if let Some(unreadable) = stages.iter().find_map(|stage| stage.damage.clone()) {
            damage.get_or_insert(unreadable);
        }
        let last = stages.last();
        let is_whole = last.is_some_and(|stage| stage.steps_done() >= stage.training.steps);
        let state = match damage {
            Some(damage) => RunState::Damaged(damage),
            None if FolderLock::is_taken(folder) => RunState::Running,
            None if is_finished && is_whole => RunState::Finished,
            None if stages.len() == 1 && is_whole && run.stage_1().model().exists() => {
                RunState::HasFirstStage
            }
            None => RunState::Stopped,
        };
        Some(Self {
            folder: folder.to_owned(),
            label,
            state,
            stages,
        })
    }

    /// The runs in `folder` and in its folders, by name. A folder that cannot be read has none.
    pub fn all_in(folder: &Path) -> Vec<Self> {
        let mut found = Vec::new();
        look_into(folder, DEPTH, &mut found);
        found
    }

    /// Its name, or that of its folder.
    pub fn name(&self) -> String {
        let of_folder = || self.folder.display().to_string();
        self.label.name.clone().unwrap_or_else(of_folder)
    }

    /// Its name with its folder, or the folder alone.
    pub fn full_name(&self) -> String {
        let folder = self.folder.display();
        match &self.label.name {
            Some(name) => format!("{name} ({folder})"),
            None => folder.to_string(),
        }
    }
}

fn look_into(folder: &Path, depth: usize, found: &mut Vec<RunOverview>) {
    if let Some(run) = RunOverview::of(folder) {
        found.push(run); // There are no runs in a run.
    } else if depth > 0 {
        let entries = folder.read_dir().into_iter().flatten().flatten();
        // A link may lead back.
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut folders: Vec<_> = folders.map(|entry| entry.path()).collect();
        folders.sort();
        for folder in folders {
            look_into(&folder, depth - 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_folder::WRITTEN_BY;

    #[test]
    fn runs_are_found_where_they_lie_with_their_state() {
        let place = tempfile::tempdir().unwrap();
        let config = include_str!("../../../../configs/mnist-quick.toml");
        let add = |name: &str, text: &str| {
            let folder = place.path().join(name);
            std::fs::create_dir_all(folder.join("diffusion")).unwrap();
            std::fs::write(
                folder.join("config.toml"),
                format!("{WRITTEN_BY} 0\n{text}"),
            )
            .unwrap();
            folder
        };
        let steps = |folder: &Path, steps: usize| {
            let rows = format!("step,loss/train\n{steps},0.5\n");
            std::fs::write(folder.join("diffusion/metrics.csv"), rows).unwrap();
        };
        add("sweep/deep/a", config);
        add("z", "steps = [");
        let finished = add("b", config);
        std::fs::create_dir(finished.join("model")).unwrap();
        steps(&finished, 1_000_000);
        let stopped = add("c", config);
        steps(&stopped, 5);
        std::fs::write(stopped.join("run.json"), "{\"name\": \"third\"}").unwrap();
        let first_stage = add("d", config);
        std::fs::create_dir_all(first_stage.join("vqvae/model")).unwrap();
        let rows = "step,loss/train\n1000000,0.5\n";
        std::fs::write(first_stage.join("vqvae/metrics.csv"), rows).unwrap();
        std::fs::create_dir(place.path().join("notes")).unwrap();

        let locked = FolderLock::try_take(&place.path().join("sweep/deep/a")).unwrap();
        let runs = RunOverview::all_in(place.path());
        let names: Vec<_> = runs
            .iter()
            .map(|run| run.folder.strip_prefix(place.path()).unwrap())
            .collect();
        assert_eq!(names, ["b", "c", "d", "sweep/deep/a", "z"].map(Path::new));
        assert_eq!(runs[0].state, RunState::Finished);
        assert_eq!(
            (&runs[1].state, runs[1].name().as_str()),
            (&RunState::Stopped, "third")
        );
        assert_eq!(runs[1].stages[0].steps_done(), 5);
        assert_eq!(runs[2].state, RunState::HasFirstStage);
        assert_eq!(runs[3].state, RunState::Running);
        assert!(matches!(runs[4].state, RunState::Damaged(_)));
        drop(locked);
        let alone = RunOverview::all_in(&runs[3].folder);
        assert_eq!((alone.len(), &alone[0].state), (1, &RunState::Stopped));
    }
}
