//! What people read of a job that did not come to a good end: what stopped and why, what it has to do with, what to do next and where.
//! Technical text stands beside it only where it is asked for, by `--verbose` or in JSON.

use std::fmt;

use migratekit_core::engine::JobDetail;
use migratekit_core::id::{ContextId, JobId};
use migratekit_core::model::JobStatus;
use migratekit_core::model::messages::{Action, Category, Message, Severity, Target};
use migratekit_core::{Error, ErrorKind, Result};

/// The ids that an action's command is completed with.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    job: JobId,
    vm: Option<String>,
}

impl Names {
    /// Of this job, and of its VM: by the name where a shell takes it as one word, else by the id.
    pub(crate) fn of(job: &JobId, vm_name: Option<&str>, context: Option<&ContextId>) -> Self {
        let word = |name: &&str| {
            !name.is_empty() && !name.starts_with('-') && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let vm = vm_name.filter(word).map(str::to_owned).or_else(|| context.map(ToString::to_string));
        Names { job: job.clone(), vm }
    }

    /// An action, and where it is done.
    pub(crate) fn action(&self, action: Action) -> String {
        let text = action.text();
        match action.target() {
            Target::Setting(name) => format!("{text} Setting: {name}"),
            Target::Page(page) => format!("{text} Page: {page}"),
            Target::Command(command) => {
                let words = command.split(' ').map(|word| match (word, &self.vm) {
                    ("JOB", _) => self.job.to_string(),
                    ("VM", Some(vm)) => vm.clone(),
                    _ => word.to_owned(),
                });
                format!("{text} `{}`", words.collect::<Vec<_>>().join(" "))
            }
        }
    }

    /// The facts of a message, as a list of facts shows them.
    pub(crate) fn facts(&self, said: Option<&Message>) -> Vec<(&'static str, Option<String>)> {
        let Some(said) = said else { return Vec::new() };
        let mut facts = vec![("stopped", Some(said.text.clone())), ("about", Some(about(said.category, said.severity)))];
        facts.extend(said.actions.iter().map(|action| ("next", Some(self.action(*action)))));
        facts
    }
}

/// What a failure has to do with, and how bad it is.
pub(crate) fn about(category: Category, severity: Severity) -> String {
    format!("{category}, {severity}")
}

/// Why the one who waited for a job gets an error: the source of that error.
#[derive(Debug)]
pub(crate) struct Told {
    said: Message,
    names: Names,
    technical: Option<String>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said.text)
    }
}

impl std::error::Error for Told {}

impl Told {
    /// What stands in `error`, if it is one of a job.
    pub(crate) fn in_error(error: &Error) -> Option<&Told> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// All of it, a line each; the technical text only for who asked for it.
    pub(crate) fn explain(&self, verbose: bool) -> String {
        let mut lines = vec![format!("error: {}", self.said.text), format!("about: {}", about(self.said.category, self.said.severity))];
        lines.extend(self.said.actions.iter().map(|action| format!(" next: {}", self.names.action(*action))));
        if let Some(technical) = self.technical.as_ref().filter(|_| verbose) {
            lines.push(format!("technical: {}", crate::table::plain(technical)));
        }
        lines.join("\n")
    }
}

/// Success, or the error that the job's end is for the one who waited for it.
pub(crate) fn verdict(detail: &JobDetail) -> Result<()> {
    const RUN: &str = "run the job to its end";
    let job = &detail.technical.job;
    if job.status == JobStatus::Completed {
        return Ok(());
    }
    let (Some(said), Some(kind)) = (Message::of(job).filter(|_| !job.status.is_busy()), Message::kind_of(job)) else {
        let text = format!("it is not finished ({}): `migratekit replicate resume VM` continues it", job.status);
        return Err(Error::new(ErrorKind::Cancelled, RUN, text).with("job", &job.id));
    };
    let names = Names::of(&job.id, detail.job.vm_name.as_deref(), detail.job.context_id.as_ref());
    let text = said.text.clone();
    let told = Told { said, names, technical: job.error_message.clone() };
    Err(Error::new(kind, RUN, text).with("job", &job.id).with_source(told))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(vm: &str) -> Names {
        Names::of(&"job-1".parse().unwrap(), Some(vm), Some(&"ctx-7".parse().unwrap()))
    }

    #[test]
    fn an_action_says_what_and_where_with_the_names_filled_in() {
        let web = names("web-01");
        assert!(web.action(Action::ResumeReplication).ends_with("`migratekit replicate resume web-01`"));
        assert!(web.action(Action::ReadJobLog).ends_with("`migratekit job log job-1`"));
        assert!(web.action(Action::MakeRoom).ends_with("`migratekit vm disks web-01`"));
        assert!(web.action(Action::ProvideKey).ends_with("Setting: MIGRATEKIT_CRED_ENCRYPTION_KEY"));
        for odd in ["a b", "$(reboot)", "--full", "", "ü"] {
            assert!(names(odd).action(Action::ReplicateAgain).ends_with("`migratekit replicate ctx-7`"), "{odd:?}");
        }
        for action in Action::ALL {
            let text = web.action(*action);
            assert!(!text.split(['`', ' ']).any(|word| word == "VM" || word == "JOB"), "{text}");
        }
    }
}
