//! `inspect`: explains, step by step, how an image would start.

use clap::Args;
use prewasi_engines::Engine;

use super::progress::print;
use super::{Status, StoreArgs, conclude, find_image, hint};
use crate::{Options, Precompiler, PrepareError, chain, report};

/// Show the steps of a start of an image, each with its reason
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The image, by name or by the digest of its manifest or index
    image: String,
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

impl Inspect {
    pub(super) fn execute(&self, engines: &[&dyn Engine]) -> Status {
        conclude(self.run(engines))
    }

    async fn run(&self, engines: &[&dyn Engine]) -> Result<Status, PrepareError> {
        let precompiler = Precompiler::connect(self.store.settings()?).await?;
        let record = find_image(&precompiler, &self.image).await?;
        let inspection = precompiler.inspect(&record, engines, &Options::of_node()?).await;
        let error = inspection.error;
        if self.json {
            let error = error.as_ref().map(|error| chain(error));
            let document = serde_json::json!({ "image": record.name, "steps": inspection.steps, "error": error });
            print(&document.to_string());
        } else {
            for step in inspection.steps {
                print(&format!("{:<10}{}", step.step, step.found));
                print(&format!("          {}", step.therefore));
            }
        }
        Ok(match error {
            None => Status::Done,
            Some(error) => {
                report(&error, hint(&error));
                if error.is_input() { Status::Input } else { Status::Unexpected }
            }
        })
    }
}
