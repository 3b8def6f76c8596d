//! Apache Kafka's own `kafka-dump-log`, fetched by Maven and run by Java, for tests that let it judge our bytes.
//!
//! Where Java or Maven is missing, or Maven cannot fetch, the test prints `SKIPPED` with the reason and passes; with
//! `GIROK_REQUIRE_KAFKA_TOOLS=1`, which `.ci/run` sets, it fails instead.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Kafka's version: the one that wrote `tests/golden`.
const KAFKA: &str = "4.3.1";

/// The environment variable that turns skipping into failing.
const REQUIRE: &str = "GIROK_REQUIRE_KAFKA_TOOLS";

const DUMP_LOG: &str = "org.apache.kafka.tools.DumpLogSegments";

/// Runs `kafka-dump-log` on `files` (named relative to `folder`) and returns what it prints. `None` where it cannot be
/// had and need not be; the test's name stands in what is printed then.
pub fn kafka_dump_log(test: &str, folder: &Path, files: &[String], args: &[&str]) -> Option<String> {
    static CLASS_PATH: OnceLock<Result<String, String>> = OnceLock::new();
    let class_path = match CLASS_PATH.get_or_init(class_path) {
        Ok(class_path) => class_path,
        Err(why) if std::env::var(REQUIRE).is_ok_and(|value| value == "1") => {
            panic!("{test} needs Kafka's tools ({REQUIRE}=1): {why}")
        }
        Err(why) => {
            println!("SKIPPED {test}: {why}");
            return None;
        }
    };
    let run = Command::new("java")
        .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", class_path, DUMP_LOG])
        .args(args)
        .args(["--files", &files.join(",")])
        .current_dir(folder)
        .output()
        .expect("java was found a moment ago");
    let out = String::from_utf8(run.stdout).expect("kafka-dump-log prints UTF-8");
    let complaints = String::from_utf8_lossy(&run.stderr);
    // Nobody configured a logger, and the logger says so. Gaps between offsets, which compaction leaves, are for the
    // tests to judge; the tool also finds one before each segment that does not begin at 0.
    let is_known = |line: &&str| {
        let known = ["SLF4J", "Non-consecutive offsets in ", "  "];
        known.iter().any(|known| line.starts_with(known))
    };
    let complaints: Vec<&str> = complaints.lines().filter(|line| !is_known(line)).collect();
    assert!(run.status.success() && complaints.is_empty(), "kafka-dump-log: {}", complaints.join("\n"));
    Some(out)
}

/// Where the tools' classes are, or why they cannot be had.
fn class_path() -> Result<String, String> {
    let version = output(Command::new("java").arg("-version")).map_err(|why| format!("java: {why}"))?;
    let major = version.split('"').nth(1).and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    if major.is_none_or(|major| major < 17) {
        return Err(format!("java: Kafka {KAFKA} needs version 17, found {:?}", version.lines().next()));
    }
    output(Command::new("mvn").arg("--version")).map_err(|why| format!("mvn: {why}"))?;

    let project = tempfile::tempdir().map_err(|e| e.to_string())?;
    let dependency = |artifact: &str| {
        format!(
            "<dependency><groupId>org.apache.kafka</groupId><artifactId>{artifact}</artifactId>\
             <version>{KAFKA}</version></dependency>"
        )
    };
    let pom = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>girok</groupId><artifactId>kafka-tools</artifactId><version>1</version><packaging>pom</packaging>\
         <dependencies>{}{}</dependencies></project>\n",
        dependency("kafka_2.13"),
        dependency("kafka-tools")
    );
    std::fs::write(project.path().join("pom.xml"), pom).map_err(|e| e.to_string())?;
    let mut maven = Command::new("mvn");
    maven
        .args(["-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath"])
        .arg("-Dmdep.outputFile=class-path")
        .current_dir(project.path());
    output(&mut maven).map_err(|why| format!("mvn cannot fetch Kafka {KAFKA}: {why}"))?;
    let class_path = std::fs::read_to_string(project.path().join("class-path")).map_err(|e| e.to_string())?;
    Ok(class_path.trim().to_string())
}

/// What a command printed, on both streams.
fn output(command: &mut Command) -> Result<String, String> {
    let run = command.output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    if run.status.success() { Ok(said) } else { Err(format!("{}: {}", run.status, said.trim())) }
}
