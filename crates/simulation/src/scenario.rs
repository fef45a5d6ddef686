//! The language of scenarios: one step a line, manifests as indented blocks. See `scenarios/README.md` for the words.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::faults::Faults;
use crate::kubelet::NodeScript;
use crate::sabotage::Sabotage;

/// A parsed scenario.
#[derive(Debug)]
pub struct Scenario {
    /// The seeds that it is run with.
    pub seeds: RangeInclusive<u64>,
    /// The steps, with their line numbers.
    pub steps: Vec<(usize, Step)>,
}

/// One line.
#[derive(Debug)]
pub enum Step {
    /// `node NAME [cpu=4] [memory=8Gi] [pods=110] [start=1s] [stop=1s] [label:KEY=VALUE]`
    Node(NodeScript),
    /// `power-off NODE`: the node is gone from one moment to the next.
    PowerOff(String),
    /// `power-on NODE`
    PowerOn(String),
    /// `partition NODE|all`: the machine runs on and reaches nobody.
    Partition(String),
    /// `heal NODE|all`
    Heal(String),
    /// `stop control-plane`: API server, scheduler and controllers are gone from one moment to the next.
    StopControlPlane,
    /// `start control-plane`
    StartControlPlane,
    /// `elect controllers|scheduler COUNT`: so many instances of which one leads.
    Elect(String, usize),
    /// `kill-leader controllers|scheduler`
    KillLeader(String),
    /// `stop-leader controllers|scheduler`: it is told to end, in good order.
    StopLeader(String),
    /// `faults [drop=1%] [lose=1%] [crash=1%] [delay=2s]` or `faults off`
    Faults(Faults),
    /// `sabotage doubles|crowding NODE|lost-deletes`: a bug is planted; the scenario has to fail.
    Sabotage(Sabotage),
    /// `drain TIME NODE[,NODE…]`: cordons the nodes and evicts their pods until none is left.
    Drain(Duration, Vec<String>),
    /// `mark`: what exists now is not new.
    Mark,
    /// `apply [COUNT]`, followed by an indented manifest of one or more documents; `$N` in it counts from 1.
    Apply(String, usize),
    /// `patch KIND NAME JSON`: a merge patch.
    Patch(String, String, String),
    /// `delete KIND NAME [background|foreground|orphan]`
    Delete(String, String, Option<String>),
    /// `delete-first KIND SELECTOR`
    DeleteFirst(String, String),
    /// `crash SELECTOR`, `unready SELECTOR`, `ready SELECTOR`: every pod with the label.
    Pods(PodFault, String),
    /// `pass DURATION`: time goes by.
    Pass(Duration),
    /// `restart controllers|scheduler|apiserver`: killed and started anew, from nothing but the API.
    Restart(String),
    /// `wait DURATION CONDITION`: the condition holds within the time.
    Wait(Duration, Condition),
    /// `always CONDITION`: from here on the condition holds after every change.
    Always(Condition),
    /// `never-again`: forget the `always` conditions.
    Forget,
}

/// What a scenario does to pods without asking the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodFault {
    /// The container ends and is started again.
    Crash,
    /// The readiness probe fails.
    Unready,
    /// The readiness probe succeeds.
    Ready,
}

/// Something that is true of the stored objects, or not.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// `get KIND NAME PATH OPERATOR VALUE`
    Field {
        /// Plural, with group if it has one: `apps/deployments`.
        kind: String,
        /// Name of the object.
        name: String,
        /// What is compared.
        test: Test,
    },
    /// `count|new KIND [SELECTOR] [where PATH OPERATOR VALUE [and …]] is OPERATOR NUMBER`
    Count {
        /// Plural, with group if it has one.
        kind: String,
        /// Labels that the objects have.
        labels: BTreeMap<String, String>,
        /// What else is so of them.
        tests: Vec<Test>,
        /// Only those that came after the last `mark`.
        new: bool,
        /// How many there are.
        operator: Operator,
        /// Compared with this.
        number: usize,
    },
}

/// `PATH OPERATOR VALUE`
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// Dotted path below the object; a number is an index, `[type=Ready]` picks from a list.
    pub path: String,
    /// How the value is compared.
    pub operator: Operator,
    /// The text of the value; `null` is a field that is not there.
    pub value: String,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`
    Unequal,
    /// `>=`
    AtLeast,
    /// `<=`
    AtMost,
    /// `~`: the text contains the value.
    Contains,
}

/// A line that is not a step.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Malformed {
    line: usize,
    what: String,
}

impl Condition {
    /// The kind that it is about.
    pub fn kind(&self) -> &str {
        match self {
            Self::Field { kind, .. } | Self::Count { kind, .. } => kind,
        }
    }
}

impl FromStr for Scenario {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut scenario = Self { seeds: 1..=1, steps: Vec::new() };
        let mut nodes = 0;
        let mut lines = text.lines().enumerate().peekable();
        while let Some((index, line)) = lines.next() {
            let number = index + 1;
            let malformed = |what: String| Malformed { line: number, what };
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                [comment, ..] if comment.starts_with('#') => {}
                ["seeds", range] => {
                    let (first, last) =
                        range.split_once("..").ok_or_else(|| malformed("seeds FIRST..LAST".into()))?;
                    let parse = |text: &str| text.parse().map_err(|_| malformed(format!("no seed: {text}")));
                    scenario.seeds = parse(first)?..=parse(last)?;
                }
                ["apply", count @ ..] => {
                    let count = match count {
                        [] => 1,
                        [count] => count.parse().map_err(|_| malformed(format!("no number: {count}")))?,
                        _ => return Err(malformed("apply [COUNT]".to_owned())),
                    };
                    let mut manifest = String::new();
                    while let Some((_, line)) =
                        lines.next_if(|(_, line)| line.starts_with("  ") || line.trim().is_empty())
                    {
                        manifest.push_str(line.strip_prefix("  ").unwrap_or(line));
                        manifest.push('\n');
                    }
                    scenario.steps.push((number, Step::Apply(manifest, count)));
                }
                ["node", name, settings @ ..] => {
                    nodes += 1;
                    let node = node(name, nodes, settings).map_err(malformed)?;
                    scenario.steps.push((number, Step::Node(node)));
                }
                ["nodes", prefix, count, settings @ ..] => {
                    let count: usize = count.parse().map_err(|_| malformed(format!("no number: {count}")))?;
                    for index in 1..=count {
                        nodes += 1;
                        let node = node(&format!("{prefix}{index}"), nodes, settings).map_err(malformed)?;
                        scenario.steps.push((number, Step::Node(node)));
                    }
                }
                words => scenario.steps.push((number, step(words, line).map_err(malformed)?)),
            }
        }
        Ok(scenario)
    }
}

fn node(name: &str, number: usize, settings: &[&str]) -> Result<NodeScript, String> {
    let number = u8::try_from(number).map_err(|_| "no more than 255 nodes")?;
    let mut node = NodeScript {
        name: name.to_owned(),
        capacity: [("cpu", "4"), ("memory", "8Gi"), ("pods", "110")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        labels: BTreeMap::new(),
        start: Duration::from_secs(2),
        stop: Duration::from_secs(1),
        number,
    };
    for setting in settings {
        let (key, value) = setting.split_once('=').ok_or_else(|| format!("KEY=VALUE, not {setting}"))?;
        match key {
            "start" => node.start = duration(value)?,
            "stop" => node.stop = duration(value)?,
            _ => match key.strip_prefix("label:") {
                Some(label) => drop(node.labels.insert(label.to_owned(), value.to_owned())),
                None => drop(node.capacity.insert(key.to_owned(), value.to_owned())),
            },
        }
    }
    Ok(node)
}

fn step(words: &[&str], line: &str) -> Result<Step, String> {
    let own = |word: &&str| (*word).to_owned();
    Ok(match words {
        ["sabotage", "doubles"] => Step::Sabotage(Sabotage::Doubles),
        ["sabotage", "crowding", node] => Step::Sabotage(Sabotage::Crowding(own(node))),
        ["sabotage", "lost-deletes"] => Step::Sabotage(Sabotage::LostDeletes),
        ["power-off", node] => Step::PowerOff(own(node)),
        ["power-on", node] => Step::PowerOn(own(node)),
        ["patch", kind, name, ..] => {
            let json =
                line.find('{').map(|start| line[start..].to_owned()).ok_or("patch KIND NAME {JSON}")?;
            Step::Patch(own(kind), own(name), json)
        }
        ["delete", kind, name] => Step::Delete(own(kind), own(name), None),
        ["delete", kind, name, propagation] => Step::Delete(own(kind), own(name), Some(own(propagation))),
        ["delete-first", kind, selector] => Step::DeleteFirst(own(kind), own(selector)),
        ["crash", selector] => Step::Pods(PodFault::Crash, own(selector)),
        ["unready", selector] => Step::Pods(PodFault::Unready, own(selector)),
        ["ready", selector] => Step::Pods(PodFault::Ready, own(selector)),
        ["partition", node] => Step::Partition(own(node)),
        ["heal", node] => Step::Heal(own(node)),
        ["stop", "control-plane"] => Step::StopControlPlane,
        ["start", "control-plane"] => Step::StartControlPlane,
        ["elect", what, count] => {
            Step::Elect(own(what), count.parse().map_err(|_| format!("not a number: {count}"))?)
        }
        ["kill-leader", what] => Step::KillLeader(own(what)),
        ["stop-leader", what] => Step::StopLeader(own(what)),
        ["faults", "off"] => Step::Faults(Faults::default()),
        ["faults", settings @ ..] => Step::Faults(faults(settings)?),
        ["drain", time, nodes] => Step::Drain(duration(time)?, nodes.split(',').map(str::to_owned).collect()),
        ["mark"] => Step::Mark,
        ["pass", time] => Step::Pass(duration(time)?),
        ["restart", what @ ("controllers" | "scheduler" | "apiserver")] => Step::Restart(own(what)),
        ["wait", time, condition @ ..] => Step::Wait(duration(time)?, self::condition(condition)?),
        ["always", condition @ ..] => Step::Always(self::condition(condition)?),
        ["never-again"] => Step::Forget,
        _ => return Err(format!("no such step: {line}")),
    })
}

fn faults(settings: &[&str]) -> Result<Faults, String> {
    let mut faults = Faults::default();
    for setting in settings {
        let wrong = || format!("drop=1%, lose=1%, crash=1% or delay=2s, not {setting}");
        let (key, value) = setting.split_once('=').ok_or_else(wrong)?;
        if key == "delay" {
            faults.delay = duration(value)?;
            continue;
        }
        let percent: f64 = value.strip_suffix('%').and_then(|value| value.parse().ok()).ok_or_else(wrong)?;
        let probability = percent / 100.0;
        match key {
            "drop" => faults.drop = probability,
            "lose" => faults.lose = probability,
            "crash" => faults.crash = probability,
            _ => return Err(wrong()),
        }
    }
    Ok(faults)
}

fn condition(words: &[&str]) -> Result<Condition, String> {
    match words {
        ["get", kind, name, test @ ..] => Ok(Condition::Field {
            kind: (*kind).to_owned(),
            name: (*name).to_owned(),
            test: self::test(test)?,
        }),
        [count @ ("count" | "new"), kind, rest @ .., "is", operator, number] => {
            let number = number.parse().map_err(|_| format!("not a number: {number}"))?;
            let operator = self::operator(operator)?;
            let (selector, tests) = match rest {
                [] => ("", &[][..]),
                ["where", tests @ ..] => ("", tests),
                [selector] => (*selector, &[][..]),
                [selector, "where", tests @ ..] => (*selector, tests),
                _ => return Err("count KIND [SELECTOR] [where …] is OPERATOR NUMBER".to_owned()),
            };
            let tests = tests.split(|word| *word == "and").filter(|words| !words.is_empty());
            let tests = tests.map(self::test).collect::<Result<_, _>>()?;
            let (kind, labels, new) = ((*kind).to_owned(), labels(selector)?, *count == "new");
            Ok(Condition::Count { kind, labels, tests, new, operator, number })
        }
        _ => Err(format!("no such condition: {}", words.join(" "))),
    }
}

fn test(words: &[&str]) -> Result<Test, String> {
    let [path, operator, value @ ..] = words else { return Err("PATH OPERATOR VALUE".to_owned()) };
    Ok(Test { path: (*path).to_owned(), operator: self::operator(operator)?, value: value.join(" ") })
}

fn operator(word: &str) -> Result<Operator, String> {
    Ok(match word {
        "=" => Operator::Equal,
        "!=" => Operator::Unequal,
        ">=" => Operator::AtLeast,
        "<=" => Operator::AtMost,
        "~" => Operator::Contains,
        _ => return Err(format!("no such comparison: {word}")),
    })
}

/// `a=b,c=d`
pub fn labels(selector: &str) -> Result<BTreeMap<String, String>, String> {
    let pairs = selector.split(',').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(format!("KEY=VALUE, not {pair}")),
        })
        .collect()
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("not a time: {text}");
    let split = text.find(|letter: char| letter.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let number: u64 = text[..split].parse().map_err(|_| wrong())?;
    match &text[split..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_reads_as_written() {
        let scenario: Scenario = "# comment\nseeds 3..5\nnode n1 cpu=2 start=5s label:zone=a\napply\n  kind: Pod\n\n  a: b\n\
                                  wait 1m count pods app=web where .spec.nodeName != n1 and .status.phase = Running is >= 3\n\
                                  patch deployments web {\"spec\": {\"replicas\": 5}}\n"
            .parse()
            .unwrap();
        assert_eq!(scenario.seeds, 3..=5);
        let [
            (_, Step::Node(node)),
            (_, Step::Apply(manifest, 1)),
            (8, Step::Wait(time, condition)),
            (_, Step::Patch(_, _, json)),
        ] = scenario.steps.as_slice()
        else {
            panic!("{:?}", scenario.steps)
        };
        assert_eq!(
            (node.capacity["cpu"].as_str(), node.start.as_secs(), node.labels["zone"].as_str()),
            ("2", 5, "a")
        );
        assert_eq!(manifest, "kind: Pod\n\na: b\n");
        assert_eq!(time.as_secs(), 60);
        assert_eq!(json, r#"{"spec": {"replicas": 5}}"#);
        let Condition::Count { tests, number: 3, operator: Operator::AtLeast, .. } = condition else {
            panic!()
        };
        assert_eq!(tests.len(), 2);
    }

    #[test]
    fn faults_and_many_read_as_written() {
        let scenario: Scenario =
            "nodes n 3\nfaults drop=1% crash=0.5% delay=2s\nfaults off\ndrain 5m n1,n2\nalways new pods app=a is = 0\n\
             apply 3\n  a: $N\n"
                .parse()
                .unwrap();
        let steps: Vec<&Step> = scenario.steps.iter().map(|(_, step)| step).collect();
        let [
            Step::Node(_),
            Step::Node(_),
            Step::Node(third),
            Step::Faults(faults),
            Step::Faults(off),
            rest @ ..,
        ] = steps.as_slice()
        else {
            panic!("{steps:?}")
        };
        assert_eq!((third.name.as_str(), third.number), ("n3", 3));
        assert_eq!((faults.drop, faults.crash, faults.lose), (0.01, 0.005, 0.0));
        assert_eq!((faults.delay.as_secs(), *off), (2, Faults::default()));
        let [Step::Drain(_, nodes), Step::Always(Condition::Count { new: true, .. }), Step::Apply(_, 3)] =
            rest
        else {
            panic!("{rest:?}")
        };
        assert_eq!(nodes, &["n1", "n2"]);
        assert!("faults often=1%".parse::<Scenario>().is_err());
    }

    #[test]
    fn a_line_that_is_no_step_is_named() {
        let error = "node n1\nfly away\n".parse::<Scenario>().unwrap_err();
        assert_eq!(error.to_string(), "line 2: no such step: fly away");
    }
}
