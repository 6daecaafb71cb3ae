//! `migratekit vm`: machines found, taken under management, looked at, let go.

use migratekit_core::Result;
use migratekit_core::engine::{AddOutcome, Added, ContextDetail, Discovered, DiskLine, Page, SweptSource, Which};
use migratekit_core::model::ContextItem;
use migratekit_core::task::CancellationToken;
use migratekit_core::units::ByteSize;

use crate::args::{Global, VmArgs, VmCommand};
use crate::table::{Table, dash, facts, plain, when, when_or_dash};
use crate::told::Names;
use crate::{output, place};

pub(crate) async fn run(global: &Global, args: VmArgs, cancel: &CancellationToken) -> Result<()> {
    let engine = place::open(global, &args.place, cancel).await?;
    match args.command {
        VmCommand::Discover { site, name } => {
            output::result(global, &engine.inventory().discover(&site, &name).await?, |found| discovered(found))
        }
        VmCommand::Add { site, vms, all } => {
            let which = if all { Which::All } else { Which::Named(vms) };
            let added = engine.contexts().add(&site, which).await?;
            output::result(global, &added, |all| added_table(all))?;
            migratekit_core::engine::verdict(&added)
        }
        VmCommand::List { limit, after } => output::result(global, &engine.contexts().list(limit, after.as_deref()).await?, listed),
        VmCommand::Show { vm } => output::result(global, &engine.contexts().detail(&vm).await?, shown),
        VmCommand::Disks { vm } => output::result(global, &engine.contexts().detail(&vm).await?.disks, |all| disks(all)),
        VmCommand::Sweep { vm } => output::result(global, &engine.contexts().sweep(&vm).await?, swept),
        VmCommand::Remove { vm, with_volumes } => {
            let removed = engine.contexts().remove(&vm, with_volumes).await?;
            output::result(global, &removed, |removed| {
                let volumes = removed.volumes_removed.iter().map(|volume| format!("\nremoved  {volume}"));
                format!("removed  {} ({}){}", plain(&removed.vm_name), removed.context, volumes.collect::<String>())
            })
        }
    }
}

fn swept(swept: &SweptSource) -> String {
    let removed = swept.removed.iter().map(|name| format!("removed  {}", plain(name)));
    let left = swept.foreign.iter().map(|name| format!("left     {}: it is not ours", plain(name)));
    let lines: Vec<String> = removed.chain(left).collect();
    if lines.is_empty() { format!("{}: nothing was left at its source", plain(&swept.vm_name)) } else { lines.join("\n") }
}

fn discovered(found: &[Discovered]) -> String {
    let mut table = Table::new(["NAME", "STATE", "CPUS", "MEMORY", "DISKS", "SIZE", "OS", "POWER", "PLACE"]);
    let mut problems = Vec::new();
    for entry in found {
        let Some(machine) = &entry.machine else {
            problems.push(format!("not usable: {}: {}", plain(&entry.place), plain(entry.problem.as_deref().unwrap_or_default())));
            continue;
        };
        let size: u64 = machine.disks.iter().map(|disk| disk.capacity_bytes).sum();
        table.row([
            machine.name.clone(),
            if entry.context.is_some() { "managed" } else { "new" }.to_owned(),
            machine.cpus.to_string(),
            ByteSize(machine.memory_bytes).to_string(),
            machine.disks.len().to_string(),
            ByteSize(size).to_string(),
            machine.os.to_string(),
            machine.power.to_string(),
            entry.place.clone(),
        ]);
    }
    [vec![table.text("no machine of this name was found")], problems].concat().join("\n")
}

fn added_table(added: &[Added]) -> String {
    let mut table = Table::new(["NAME", "OUTCOME", "ID", "WHY"]);
    for one in added {
        let (outcome, id, why) = match &one.outcome {
            AddOutcome::Added { context } => ("added", context.to_string(), String::new()),
            AddOutcome::Skipped { context } => ("skipped", context.to_string(), "it is managed already".to_owned()),
            AddOutcome::Refused { why } => ("refused", dash(), why.clone()),
        };
        table.row([one.name.clone(), outcome.to_owned(), id, why]);
    }
    table.text("there is no machine to add")
}

fn listed(page: &Page<ContextItem>) -> String {
    let mut table = Table::new(["NAME", "STATUS", "JOB", "DISKS", "SIZE", "LAST POINT (UTC)", "ID"]);
    for line in &page.items {
        table.row([
            line.vm_name.clone(),
            line.status.to_string(),
            line.active_job.as_ref().map_or_else(dash, |job| format!("{} {}", job.status, job.percent)),
            line.disk_count.to_string(),
            ByteSize(line.capacity_bytes).to_string(),
            when_or_dash(line.last_point_at),
            line.context.to_string(),
        ]);
    }
    let text = table.text("no VMs under management yet: `migratekit vm add` takes them");
    with_cursor(text, page.next.as_deref())
}

/// A page's text, and how to see the next.
pub(crate) fn with_cursor(text: String, next: Option<&str>) -> String {
    match next {
        Some(cursor) => format!("{text}\nmore: --after {cursor}"),
        None => text,
    }
}

fn shown(vm: &ContextDetail) -> String {
    let context = &vm.context;
    let ready = match (vm.ready_for_failover, &vm.point) {
        (true, _) => "yes".to_owned(),
        (false, None) => "no: there is no complete point yet".to_owned(),
        (false, Some(_)) => "no: the last point is not in all volumes yet".to_owned(),
    };
    let mut head = vec![
        ("name", Some(context.vm_name.clone())),
        ("id", Some(context.id.to_string())),
        ("status", Some(context.status.to_string())),
        ("source", Some(format!("{}: {}", context.source_host, context.vm_path))),
        (
            "hardware",
            Some(format!("{} CPUs, {}, {}, power {}", context.cpu_count, ByteSize(context.memory_bytes), context.os, context.power)),
        ),
        ("job", vm.active_job.as_ref().map(ToString::to_string)),
        ("ready for failover", Some(ready)),
        ("last point", vm.point.as_ref().map(|point| format!("{} of {}, {}", point.id, when(point.taken_at), point.status))),
        ("jobs", Some(format!("{}, {} of them good, {} failed", context.jobs.total, context.jobs.successful, context.jobs.failed))),
        ("managed since", Some(when(context.created_at))),
    ];
    if let Some(last) = &vm.last_operation {
        let names = Names::of(&last.job_id, Some(&context.vm_name), Some(&context.id));
        head.push(("last operation", Some(format!("{} {} {}, {}", last.operation_type, last.status, last.progress, when(last.timestamp)))));
        head.push(("stopped", last.error_message.clone()));
        head.extend(last.actionable_steps.iter().map(|action| ("next", Some(names.action(*action)))));
    }
    format!("{}\n\n{}", facts(head), disks(&vm.disks))
}

fn disks(all: &[DiskLine]) -> String {
    let mut table = Table::new(["DISK", "LABEL", "SIZE", "VOLUME", "CHANGE ID", "SOURCE"]);
    for disk in all {
        table.row([
            disk.key.to_string(),
            disk.label.clone(),
            ByteSize(disk.capacity_bytes).to_string(),
            disk.volume
                .as_ref()
                .map_or_else(dash, |volume| volume.path.as_ref().map_or_else(|| volume.id.to_string(), |p| p.display().to_string())),
            disk.change_id.clone().unwrap_or_else(dash),
            if disk.removed_at.is_some() { format!("{} (removed from the VM)", disk.path) } else { disk.path.clone() },
        ]);
    }
    table.text("no disks are known")
}
