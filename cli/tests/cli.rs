//! Promise: the tool does what its help says, from outside: what goes in comes out, what is wrong has an exit code and a
//! sentence, Kafka's files print as Kafka's tool prints them, and the demo loses nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A directory of topics of its own, and the tool at work on it.
struct Tool(tempfile::TempDir);

impl Tool {
    fn new() -> Self {
        Tool(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_girok"));
        command.arg("--dir").arg(self.dir()).args(args).env_remove("GIROK_DIR").stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().unwrap())
    }

    /// Runs it, and it must go well; what it printed.
    fn well(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        ran.stdout
    }

    fn produce(&self, args: &[&str], lines: &str) -> Ran {
        let mut child = self.spawn(args);
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        Ran::from(child.wait_with_output().unwrap())
    }

    fn spawn(&self, args: &[&str]) -> Child {
        self.command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code().expect("it was not killed by a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn objects(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(path)
}

#[test]
fn what_is_produced_is_consumed() {
    let tool = Tool::new();
    tool.well(&["topics", "create", "orders", "--partitions", "3"]);
    let sent = tool
        .produce(&["produce", "orders", "-k", ":", "-H", "from=test"], "t4:tea\nt1:cake\nno key\nt4:bill\n");
    assert_eq!(sent.code, 0, "{}", sent.stderr);

    let mut lines: Vec<String> =
        tool.well(&["consume", "orders", "-f", "%k|%v|%h\\n"]).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(
        lines,
        ["t1|cake|from=test", "t4|bill|from=test", "t4|tea|from=test", "|no key|from=test"].map(String::from)
    );

    // Records of one key are in one partition, in order.
    let of_t4: Vec<Value> = objects(&tool.well(&["consume", "orders", "--json"]))
        .into_iter()
        .filter(|one| one["key"] == "t4")
        .collect();
    assert_eq!(of_t4.iter().map(|one| &one["value"]).collect::<Vec<_>>(), ["tea", "bill"]);
    assert_eq!(of_t4[0]["partition"], of_t4[1]["partition"]);
    assert!(of_t4[0]["offset"].as_i64() < of_t4[1]["offset"].as_i64());

    let partition = of_t4[0]["partition"].to_string();
    let last = tool.well(&["consume", &format!("orders:{partition}"), "--from", "-1", "-f", "%o %v"]);
    assert!(last.ends_with("bill"), "{last}");
    assert_eq!(tool.well(&["consume", "orders", "--from", "end"]), "");
    assert_eq!(tool.well(&["consume", "orders", "--max", "2"]).lines().count(), 2);
}

#[test]
fn a_group_goes_on_where_it_was() {
    let tool = Tool::new();
    tool.well(&["topics", "create", "orders"]);
    tool.produce(&["produce", "orders"], "a\nb\nc\nd\n");
    assert_eq!(tool.well(&["consume", "orders", "-g", "kitchen", "--max", "3"]), "a\nb\nc\n");
    assert_eq!(tool.well(&["consume", "orders", "-g", "kitchen"]), "d\n");
    assert_eq!(tool.well(&["consume", "orders", "-g", "kitchen"]), "");

    tool.well(&["offsets", "reset", "kitchen", "--to", "by-2"]);
    let listed = objects(&tool.well(&["--json", "offsets", "list", "kitchen"]));
    assert_eq!((&listed[0]["committed"], &listed[0]["lag"]), (&2.into(), &2.into()));
    assert_eq!(tool.well(&["consume", "orders", "-g", "kitchen"]), "c\nd\n");

    tool.well(&["offsets", "delete", "kitchen"]);
    assert_eq!(tool.run(&["offsets", "list", "kitchen"]).code, 1);
}

/// Who follows is ended by a signal, and has committed what it printed by then.
#[test]
fn a_follower_commits_what_it_printed() {
    let tool = Tool::new();
    tool.well(&["topics", "create", "orders"]);
    tool.produce(&["produce", "orders"], "a\nb\n");
    let mut follower = tool.spawn(&["consume", "orders", "-g", "kitchen", "--follow"]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!((lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()), ("a".into(), "b".into()));
    // The commit comes right behind the print: it is there when its record is in the log.
    let committed = || {
        let dumped = tool.run(&["dump", "__consumer_offsets-0", "--json"]).stdout;
        dumped.contains("kitchen") && objects(&dumped).iter().any(|one| one["value"]["data"]["offset"] == 2)
    };
    for _ in 0..200 {
        if committed() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert_eq!(tool.well(&["consume", "orders", "-g", "kitchen"]), "");
}

#[test]
fn topics_are_made_changed_and_removed() {
    let tool = Tool::new();
    tool.well(&["topics", "create", "clicks", "-c", "retention.ms=60000"]);
    assert_eq!(tool.run(&["topics", "create", "clicks"]).code, 1);
    tool.well(&["topics", "create", "clicks", "--if-not-exists"]);
    tool.well(&["topics", "alter", "clicks", "-c", "cleanup.policy=compact"]);
    tool.well(&["topics", "add-partitions", "clicks", "4"]);
    let described = &objects(&tool.well(&["topics", "describe", "clicks", "--json"]))[0];
    assert_eq!(described["config"]["retention.ms"], "60000");
    assert_eq!(described["config"]["cleanup.policy"], "compact");
    assert_eq!(described["partitions"].as_array().unwrap().len(), 4);
    tool.well(&["topics", "delete", "clicks"]);
    assert_eq!(tool.well(&["topics", "--json"]), "");
}

/// What cannot be is 2, what is not there is 1, and both say what to do.
#[test]
fn failures_have_codes_and_sentences() {
    let tool = Tool::new();
    let missing = tool.run(&["consume", "orders"]);
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("check the path"), "{}", missing.stderr);

    tool.well(&["topics", "create", "orders"]);
    for (args, code, says) in [
        (&["consume", "orderz"][..], 1, "unknown topic"),
        (&["consume", "orders:7"], 2, "partitions 0 to 0"),
        (&["consume", "orders", "-f", "%q"], 2, "%q"),
        (&["consume", "orders", "--from", "yesterday"], 2, "@TIME"),
        (&["produce", "orderz"], 1, "unknown topic"),
        (&["produce", "orders", "--file", "/no/such/file"], 1, "/no/such/file"),
        (&["produce", "orders", "--rate", "0"], 2, "--rate"),
        (&["topics", "create", "bad name"], 2, "bad name"),
        (&["topics", "create", "x", "-c", "retention_ms=1"], 2, "retention.ms"),
        (&["topics", "create", "x", "-c", "min.insync.replicas=2"], 2, "min.insync.replicas"),
        (&["topics", "describe", "orderz"], 1, "orders"),
        (&["dump", "/no/such/file"], 1, "/no/such/file"),
        (&["frobnicate"], 2, "frobnicate"),
    ] {
        let ran = tool.run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
    }
}

/// Somebody has the directory: the message says who, and whatever only looks works all the same.
#[test]
fn beside_its_owner_the_tool_only_looks() {
    let tool = Tool::new();
    tool.well(&["topics", "create", "orders"]);
    tool.produce(&["produce", "orders"], "tea\n");
    let mut owner = tool.spawn(&["consume", "orders", "--follow"]);
    let mut first = String::new();
    BufReader::new(owner.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "tea\n");

    let refused = tool.run(&["produce", "orders"]);
    assert_eq!(refused.code, 3);
    assert!(refused.stderr.contains(&format!("process {}", owner.id())), "{}", refused.stderr);
    let records = objects(&tool.well(&["dump", "orders-0", "--json"]));
    assert!(records.iter().any(|one| one["offset"] == 0 && one["value"] == "tea"), "{records:?}");
    assert!(tool.well(&["verify"]).contains("every checksum is right"));
    assert_eq!(objects(&tool.well(&["topics", "list", "--json"]))[0]["topic"], "orders");
    assert!(tool.well(&["stats"]).contains("orders"));

    // And after it died without a word, the directory opens, and closes cleanly.
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert_eq!(objects(&tool.well(&["close", "--json"]))[0]["wasClean"], false);
    assert_eq!(objects(&tool.well(&["close", "--json"]))[0]["wasClean"], true);
    assert_eq!(tool.well(&["consume", "orders"]), "tea\n");
}

/// Every line of Kafka's own account of its files, but the first, which names the path.
#[test]
fn kafkas_files_print_as_kafkas_tool_prints_them() {
    let tool = Tool::new();
    for folder in ["g-none-0", "g-zstd-0", "g-headers-0", "g-nulls-0", "g-txn-0", "__consumer_offsets-0"] {
        let mut files = 0;
        for entry in std::fs::read_dir(golden("dump").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let Some(name) = name.strip_suffix(".txt").filter(|name| !name.ends_with(".snapshot")) else {
                continue;
            };
            if name.ends_with(".txnindex") {
                continue;
            }
            let segment = golden("segments").join(folder).join(name);
            let ours = tool.well(&["dump", segment.to_str().unwrap()]);
            let mut theirs = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
            // At the end of a file with holes Kafka's tool lists them once more.
            theirs.truncate(theirs.find("Non-consecutive offsets").unwrap_or(theirs.len()));
            for (ours, theirs) in ours.lines().zip(theirs.lines()) {
                assert_eq!(ours, theirs, "{folder}/{name}");
            }
            assert_eq!(ours.lines().count(), theirs.lines().count(), "{folder}/{name}");
            files += 1;
        }
        assert!(files >= 2, "{folder}");
    }
}

#[test]
fn dump_as_json_has_an_offset_in_every_record_and_in_nothing_else() {
    let tool = Tool::new();
    let folder = golden("segments/g-gzip-0");
    let objects = objects(&tool.well(&["dump", "--json", folder.to_str().unwrap()]));
    let offsets: Vec<i64> = objects.iter().filter_map(|one| one["offset"].as_i64()).collect();
    assert_eq!(offsets, (0..200).collect::<Vec<_>>());
    for object in &objects {
        assert_eq!(object["offset"].is_null(), object["type"] != "record", "{object}");
    }
    let first = objects.iter().find(|one| one["type"] == "record").unwrap();
    assert_eq!((&first["key"], &first["timestamp"]), (&"key-0".into(), &1_700_000_000_000i64.into()));

    let folder = golden("segments/__consumer_offsets-0");
    let decoded = self::objects(&tool.well(&["dump", "--json", folder.to_str().unwrap()]));
    let commit = decoded.iter().find(|one| one["key"]["data"]["group"] == "g-group-txn").unwrap();
    assert_eq!(commit["value"]["data"]["offset"], 123);
}

#[test]
fn verify_and_dump_name_a_flipped_bit() {
    let tool = Tool::new();
    tool.well(&["topics", "create", "orders"]);
    tool.produce(&["produce", "orders"], "tea\ncake\n");
    assert_eq!(tool.run(&["verify"]).code, 0);
    let path = tool.dir().join("orders-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let ran = tool.run(&["verify", "--json"]);
    assert_eq!(ran.code, 1);
    let problem = &objects(&ran.stdout)[0];
    assert_eq!(problem["problem"], path.to_str().unwrap());
    assert!(problem["expected"].as_str().unwrap().contains("checksum"), "{problem}");
    let ran = tool.run(&["dump", "orders-0"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("isvalid: false"), "{}", ran.stdout);
}

#[test]
fn a_checkpoint_is_a_directory_of_its_own() {
    let tool = Tool::new();
    tool.well(&["topics", "create", "orders"]);
    tool.produce(&["produce", "orders"], "tea\n");
    let copy = tool.0.path().join("copy");
    tool.well(&["checkpoint", copy.to_str().unwrap()]);
    tool.produce(&["produce", "orders"], "cake\n");
    let mut consume = Command::new(env!("CARGO_BIN_EXE_girok"));
    let copied = Ran::from(consume.args(["consume", "orders", "--dir"]).arg(&copy).output().unwrap());
    assert_eq!(copied.stdout, "tea\n", "{}", copied.stderr);
    assert_eq!(
        tool.run(&["checkpoint", copy.to_str().unwrap()]).code,
        2,
        "what is there is not written over"
    );
}

/// `girok dump … | head`.
#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let tool = Tool::new();
    let folder = golden("segments/g-segments-0");
    let mut child = tool.spawn(&["dump", folder.to_str().unwrap()]);
    let mut some = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    // stdout is closed now, in the middle.
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

#[test]
fn the_demo_loses_nothing() {
    let tool = Tool::new();
    let ran = tool.run(&["demo", "--seconds", "3", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    for reader in ["search", "archive"] {
        let count = |name: &str| last["groups"][reader][name].as_u64().unwrap();
        assert!(count("produced") > 100, "{last}");
        assert_eq!(count("lost"), 0, "{last}");
        assert_eq!(count("consumed") - count("duplicated"), count("produced"), "{last}");
    }
    assert_eq!(last["rebalances"], Value::Array(Vec::new()));
}
