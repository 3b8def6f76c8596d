//! `girok topics`: what there is, and changing it.
//!
//! Listing and describing read `girok.meta` and the folders, so they work beside the process that has the directory open.

use clap::{Args, Subcommand};
use girok::{TopicConfig, TopicDescription, TopicPartition};
use girok_engine::inspect::Directory;
use serde_json::{Value, json};

use crate::Global;
use crate::fail::{Fail, Result};
use crate::out::{Out, grouped};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Topics {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// All topics (this is what `girok topics` alone does)
    List,
    /// Make a topic; the directory too, if it is missing
    Create {
        /// Letters, digits, '.', '_' and '-', at most 249
        topic: String,
        /// How many partitions
        #[arg(long, short, default_value_t = 1, value_name = "N")]
        partitions: i32,
        /// A key of its configuration, by Kafka's name; may be repeated
        #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
        config: Vec<(String, String)>,
        /// It is no failure if the topic exists
        #[arg(long)]
        if_not_exists: bool,
    },
    /// Partitions and every key of the configuration
    Describe {
        #[arg(required = true)]
        topics: Vec<String>,
    },
    /// Change the configuration
    Alter {
        topic: String,
        /// A key and its new value; may be repeated
        #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value, required = true)]
        config: Vec<(String, String)>,
    },
    /// Give a topic more partitions. Records stay where they are, so a key may go to another partition from now on
    AddPartitions {
        topic: String,
        /// How many it shall have in all
        total: i32,
    },
    /// Remove topics, their records and what groups have committed for them
    Delete {
        #[arg(required = true)]
        topics: Vec<String>,
    },
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().into(), value.trim().into())),
        _ => Err(format!("expected KEY=VALUE, found {text:?}")),
    }
}

fn pairs(config: &[(String, String)]) -> Vec<(&str, &str)> {
    config.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

impl Topics {
    pub fn run(&self, global: &Global, out: &mut Out) -> Result<()> {
        match self.what.as_ref().unwrap_or(&What::List) {
            What::List => list(global, out),
            What::Describe { topics } => describe(global, out, topics),
            What::Create { topic, partitions, config, if_not_exists } => {
                let settings = TopicConfig::from_entries(pairs(config))?;
                girok_engine::check_topic_name(topic)?;
                let girok = global.open(true)?;
                let made = girok.admin().create_topic(topic, *partitions, settings);
                match made {
                    Err(girok::Error::Engine(girok_engine::Error::TopicExists { .. })) if *if_not_exists => {
                        said(out, "exists", topic)?;
                    }
                    made => {
                        made?;
                        said(out, "created", topic)?;
                    }
                }
                Ok(girok.close()?)
            }
            What::Alter { topic, config } => {
                let girok = global.open(false)?;
                girok.admin().alter_config(topic, &pairs(config))?;
                girok.close()?;
                said(out, "altered", topic)
            }
            What::AddPartitions { topic, total } => {
                let girok = global.open(false)?;
                girok.admin().create_partitions(topic, *total)?;
                girok.close()?;
                said(out, "altered", topic)
            }
            What::Delete { topics } => {
                let girok = global.open(false)?;
                // All or none: a slip in the third name should not cost the first two.
                girok.admin().describe_topics(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
                for topic in topics {
                    girok.admin().delete_topic(topic)?;
                    said(out, "deleted", topic)?;
                }
                Ok(girok.close()?)
            }
        }
    }
}

fn said(out: &mut Out, what: &str, topic: &str) -> Result<()> {
    if out.json {
        out.object(&json!({ "topic": topic, "done": what }))
    } else {
        out.line(format!("{what} {topic}"))
    }
}

/// What a directory has, whoever wrote it: a broker's has no configurations.
fn all(dir: &Directory) -> Result<Vec<TopicDescription>> {
    if let Some(topics) = dir.topics()? {
        return Ok(topics);
    }
    let mut topics: Vec<TopicDescription> = Vec::new();
    for folder in dir.partitions()? {
        let name = folder.name();
        match topics.last_mut() {
            Some(last) if last.name == name.topic() => {
                last.partitions = last.partitions.max(name.partition() + 1)
            }
            _ => topics.push(TopicDescription {
                name: name.topic().into(),
                id: folder.topic_id()?.unwrap_or_default(),
                partitions: name.partition() + 1,
                config: TopicConfig::for_adopted(name.topic()).into(),
            }),
        }
    }
    Ok(topics)
}

/// Segments, and bytes of log with the room that is reserved.
fn size(dir: &Directory, topic: &str, partition: i32) -> Result<(usize, u64)> {
    match dir.partition(&TopicPartition::new(topic, partition)) {
        Ok(folder) => {
            let segments = folder.segments()?;
            Ok((segments.len(), segments.iter().map(|segment| segment.bytes()).sum()))
        }
        // Nothing was ever appended to it.
        Err(_) => Ok((0, 0)),
    }
}

fn list(global: &Global, out: &mut Out) -> Result<()> {
    let dir = Directory::open(global.dir())?;
    let mut rows = Vec::new();
    for topic in all(&dir)? {
        let mut bytes = 0;
        for partition in 0..topic.partitions {
            bytes += size(&dir, &topic.name, partition)?.1;
        }
        if out.json {
            out.object(&json!({
                "topic": topic.name, "id": topic.id.to_string(), "partitions": topic.partitions, "bytes": bytes,
            }))?;
            continue;
        }
        let durability = topic.config.durability.to_string();
        rows.push(vec![
            topic.name,
            topic.partitions.to_string(),
            grouped(bytes),
            durability,
            topic.id.to_string(),
        ]);
    }
    if rows.is_empty() && !out.json {
        eprintln!("no topics in {}; `girok topics create NAME` makes one", dir.path().display());
    }
    out.table(&["topic", "partitions", "bytes", "durability", "id"], &rows)
}

fn describe(global: &Global, out: &mut Out, names: &[String]) -> Result<()> {
    let dir = Directory::open(global.dir())?;
    let topics = all(&dir)?;
    for name in names {
        let Some(topic) = topics.iter().find(|topic| topic.name == *name) else {
            let known: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).take(20).collect();
            return Err(Fail::Found(format!(
                "unknown topic {name}: {} has {}; check the name, or create it",
                dir.path().display(),
                if known.is_empty() { "none".into() } else { known.join(", ") }
            )));
        };
        let mut sizes = Vec::new();
        for partition in 0..topic.partitions {
            sizes.push(size(&dir, name, partition)?);
        }
        if out.json {
            let config: serde_json::Map<String, Value> =
                topic.config.entries().map(|(key, value, _)| (key.into(), value.into())).collect();
            let partitions: Vec<Value> = sizes
                .iter()
                .enumerate()
                .map(|(number, (segments, bytes))| json!({ "partition": number, "segments": segments, "bytes": bytes }))
                .collect();
            out.object(&json!({
                "topic": name, "id": topic.id.to_string(), "partitions": partitions, "config": config,
            }))?;
            continue;
        }
        out.line(format!("{name}  id {}", topic.id))?;
        let rows: Vec<Vec<String>> = sizes
            .iter()
            .enumerate()
            .map(|(number, (segments, bytes))| {
                vec![number.to_string(), segments.to_string(), grouped(*bytes)]
            })
            .collect();
        out.table(&["partition", "segments", "bytes"], &rows)?;
        let rows: Vec<Vec<String>> = topic
            .config
            .entries()
            .map(|(key, value, is_default)| {
                vec![key.into(), value, if is_default { "default" } else { "set" }.into()]
            })
            .collect();
        out.line("")?;
        out.table(&["key", "value", "from"], &rows)?;
        out.line("")?;
    }
    Ok(())
}
