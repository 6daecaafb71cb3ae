//! A source file that is changed while it is copied: a copy of it is a copy of no state it ever had.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use super::peers::slow_target;
use super::{SIZE, Table};
use crate::run::wait_allocated;

type Change = fn(&File);

pub(super) fn sources(t: &mut Table) {
    let changes: [(&'static str, &str, Change); 3] = [
        ("source shrinks", "became shorter", |f| f.set_len(SIZE / 2).unwrap()),
        ("source grows", "size", |f| f.set_len(2 * SIZE).unwrap()),
        ("source is written to", "was written to", |f| f.write_all_at(b"x", 5).unwrap()),
    ];
    for (cause, says, change) in changes {
        let (source, target) = (t.path("source"), t.path("target"));
        std::fs::write(&source, vec![7; usize::try_from(SIZE).unwrap()]).unwrap();
        let to = slow_target(&target);
        // Changed once the target has got something: the source is open, and most of it is still to be read.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut nothing = std::process::Command::new("sleep").arg("60").spawn().unwrap();
                let begun = wait_allocated(&target, SIZE / 16, &mut nothing);
                nothing.kill().unwrap();
                nothing.wait().unwrap();
                assert!(begun);
                change(&OpenOptions::new().write(true).open(&source).unwrap());
            });
            let (source, uri) = (source.display().to_string(), to.uri());
            let args = ["copy", &source, &uri, "--request-size", "64K", "--in-flight", "64K"];
            t.case(&super::Case::new(cause, 17, &args, &["side source", &source, says]));
        });
    }
}
