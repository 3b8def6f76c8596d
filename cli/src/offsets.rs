//! `girok offsets`: how far groups have read, and where topics begin and end.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};
use girok::{Girok, Offset, OffsetSpec, OffsetTarget, TopicPartition};
use serde_json::json;

use crate::Global;
use crate::consume::places;
use crate::fail::{Fail, Result};
use crate::out::Out;
use crate::spec::{Place, TopicSpec};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Offsets {
    #[command(subcommand)]
    what: Option<What>,
    /// What this group has committed, and how far it lags (as `offsets list NAME`)
    #[arg(long, short, value_name = "NAME")]
    group: Option<String>,
}

#[derive(Subcommand)]
enum What {
    /// All groups (this is what `girok offsets` alone does)
    Groups,
    /// What a group has committed, and how far it lags
    List {
        group: String,
        /// Only these
        #[arg(value_name = "TOPIC[:PARTITIONS]")]
        topics: Vec<TopicSpec>,
    },
    /// Where partitions begin and end
    Ends {
        #[arg(value_name = "TOPIC[:PARTITIONS]", required = true)]
        topics: Vec<TopicSpec>,
    },
    /// Set what a group has committed
    Reset {
        group: String,
        /// beginning, end, an offset, @TIME, -N (N records before the end), or by+N and by-N from what is committed
        #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
        to: String,
        /// Only these [default: all that the group has committed]
        #[arg(value_name = "TOPIC[:PARTITIONS]")]
        topics: Vec<TopicSpec>,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget what a group has committed; without topics, the whole group
    Delete {
        group: String,
        #[arg(value_name = "TOPIC[:PARTITIONS]")]
        topics: Vec<TopicSpec>,
    },
}

impl Offsets {
    pub fn run(&self, global: &Global, out: &mut Out) -> Result<()> {
        let girok = global.open(false)?;
        match (&self.what, &self.group) {
            (None, Some(group)) => list(&girok, out, group, &[])?,
            (None | Some(What::Groups), _) => groups(&girok, out)?,
            (Some(What::List { group, topics }), _) => list(&girok, out, group, topics)?,
            (Some(What::Ends { topics }), _) => ends(&girok, out, topics)?,
            (Some(What::Reset { group, to, topics, dry_run }), _) => {
                reset(&girok, out, group, to, topics, *dry_run)?;
            }
            (Some(What::Delete { group, topics }), _) => delete(&girok, out, group, topics)?,
        }
        Ok(girok.close()?)
    }
}

fn resolve(girok: &Girok, topics: &[TopicSpec]) -> Result<Vec<TopicPartition>> {
    let mut all = BTreeSet::new();
    for topic in topics {
        all.extend(topic.resolve(girok)?);
    }
    Ok(all.into_iter().collect())
}

fn groups(girok: &Girok, out: &mut Out) -> Result<()> {
    let mut rows = Vec::new();
    for group in girok.admin().list_groups()? {
        if out.json {
            out.object(&json!({
                "group": &*group.group, "protocolType": group.protocol_type, "members": group.members,
                "epoch": group.epoch, "offsets": group.offsets,
            }))?;
        }
        rows.push(vec![group.group.to_string(), group.members.to_string(), group.offsets.to_string()]);
    }
    match (rows.is_empty(), out.json) {
        (_, true) => Ok(()),
        (true, _) => out.line("no groups"),
        (false, _) => out.table(&["group", "members", "offsets"], &rows),
    }
}

fn list(girok: &Girok, out: &mut Out, group: &str, topics: &[TopicSpec]) -> Result<()> {
    let committed = girok.admin().list_group_offsets(group)?;
    if committed.is_empty() {
        let known: Vec<String> =
            girok.admin().list_groups()?.into_iter().map(|group| group.group.to_string()).take(20).collect();
        return Err(Fail::Found(format!(
            "group {group} has committed nothing; there is {}",
            if known.is_empty() { "no group".into() } else { known.join(", ") }
        )));
    }
    let wanted = match topics.is_empty() {
        true => committed.keys().cloned().collect(),
        false => resolve(girok, topics)?,
    };
    let mut rows = Vec::new();
    for tp in wanted {
        // A topic may be gone while its commits are not.
        let one = std::slice::from_ref(&tp);
        let end = girok.admin().list_offsets(one, OffsetSpec::Latest).ok();
        let end = end.and_then(|found| found.into_values().next().flatten()).map(|found| found.offset);
        let found = committed.get(&tp);
        let lag = found.zip(end).map(|(found, end)| (end - found.offset).max(0));
        if out.json {
            out.object(&json!({
                "group": group, "topic": tp.topic(), "partition": tp.partition(),
                "committed": found.map(|found| found.offset.get()),
                "end": end.map(Offset::get), "lag": lag,
                "metadata": found.map(|found| &*found.metadata),
                "commitTimestamp": found.map(|found| found.commit_timestamp.as_millis()),
            }))?;
            continue;
        }
        let shown = |number: Option<i64>| number.map_or("-".into(), |number| number.to_string());
        rows.push(vec![
            tp.topic().into(),
            tp.partition().to_string(),
            shown(found.map(|found| found.offset.get())),
            shown(end.map(Offset::get)),
            shown(lag),
            found.map_or(String::new(), |found| found.metadata.to_string()),
        ]);
    }
    out.table(&["topic", "partition", "committed", "end", "lag", "metadata"], &rows)
}

fn ends(girok: &Girok, out: &mut Out, topics: &[TopicSpec]) -> Result<()> {
    let partitions = resolve(girok, topics)?;
    let at = |spec| -> Result<BTreeMap<TopicPartition, i64>> {
        let found = girok.admin().list_offsets(&partitions, spec)?;
        Ok(found.into_iter().map(|(tp, found)| (tp, found.map_or(0, |found| found.offset.get()))).collect())
    };
    let (starts, ends) = (at(OffsetSpec::Earliest)?, at(OffsetSpec::Latest)?);
    let mut rows = Vec::new();
    for tp in &partitions {
        let (start, end) = (starts[tp], ends[tp]);
        if out.json {
            out.object(&json!({
                "topic": tp.topic(), "partition": tp.partition(), "beginning": start, "end": end,
            }))?;
            continue;
        }
        let numbers = [tp.partition().into(), start, end, end - start].map(|number: i64| number.to_string());
        rows.push([vec![tp.topic().to_owned()], numbers.to_vec()].concat());
    }
    out.table(&["topic", "partition", "beginning", "end", "offsets"], &rows)
}

fn reset(
    girok: &Girok,
    out: &mut Out,
    group: &str,
    to: &str,
    topics: &[TopicSpec],
    dry_run: bool,
) -> Result<()> {
    let committed = girok.admin().list_group_offsets(group)?;
    let partitions = match topics.is_empty() {
        true => committed.keys().cloned().collect(),
        false => resolve(girok, topics)?,
    };
    if partitions.is_empty() {
        return Err(Fail::Found(format!(
            "group {group} has committed nothing; name the topics to set it for"
        )));
    }
    let entries: Vec<(TopicPartition, Offset)> = match to.strip_prefix("by") {
        Some(by) => {
            let wrong = || Fail::usage(format!("--to: expected by+N or by-N, found {to:?}"));
            let by = by.parse::<i64>().ok().filter(|_| by.starts_with(['+', '-'])).ok_or_else(wrong)?;
            let ends = places(girok, &partitions, Place::End)?;
            let starts = places(girok, &partitions, Place::Beginning)?;
            let mut entries = Vec::new();
            for ((tp, end), (_, start)) in ends.into_iter().zip(starts) {
                let Some(found) = committed.get(&tp) else { continue };
                let to = Offset::new(found.offset.get().saturating_add(by));
                entries.push((tp, to.clamp(start, end)));
            }
            if entries.is_empty() {
                return Err(Fail::Found(format!(
                    "group {group} has committed nothing here to count from; reset it to a place instead"
                )));
            }
            entries
        }
        None => {
            places(girok, &partitions, to.parse::<Place>().map_err(|e| Fail::usage(format!("--to: {e}")))?)?
        }
    };
    if !dry_run {
        let mut commits = Vec::new();
        for (tp, offset) in &entries {
            let results = girok.admin().reset_group_offsets(
                group,
                std::slice::from_ref(tp),
                OffsetTarget::To(*offset),
            )?;
            commits.extend(results);
        }
        for (_, result) in commits {
            result?;
        }
    }
    let mut rows = Vec::new();
    for (tp, offset) in entries {
        let before = committed.get(&tp).map(|found| found.offset.get());
        if out.json {
            out.object(&json!({
                "group": group, "topic": tp.topic(), "partition": tp.partition(),
                "before": before, "committed": offset.get(), "done": !dry_run,
            }))?;
            continue;
        }
        let before = before.map_or("-".into(), |before| before.to_string());
        rows.push(vec![tp.topic().into(), tp.partition().to_string(), before, offset.to_string()]);
    }
    out.table(&["topic", "partition", "before", if dry_run { "would be" } else { "now" }], &rows)
}

fn delete(girok: &Girok, out: &mut Out, group: &str, topics: &[TopicSpec]) -> Result<()> {
    if topics.is_empty() {
        girok.admin().delete_group(group)?;
    } else {
        for (_, result) in girok.admin().delete_group_offsets(group, &resolve(girok, topics)?)? {
            result?;
        }
    }
    if out.json {
        return out.object(&json!({ "group": group, "done": "deleted" }));
    }
    let what = if topics.is_empty() { "group" } else { "these offsets of group" };
    out.line(format!("deleted {what} {group}"))
}
