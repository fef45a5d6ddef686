//! Schedules of CronJobs: five fields, nicknames and `@every`, as upstream's library reads them. A day has to match both
//! the day of the month and that of the week unless both are given: then one is enough.
//!
//! Times that a clock skips when summer begins do not happen; those that it repeats when it ends happen twice.

use std::time::Duration;

use jiff::civil::Date;
use jiff::{ToSpan, Unit, Zoned, ZonedRound};

/// When something is to happen again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At minutes that match.
    Calendar(Calendar),
    /// So long after the last time.
    Every(Duration),
}

/// A set of small numbers.
type Set = u64;

/// The minutes, hours, days and months that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
    /// Whether days of the month, or of the week, are not restricted.
    any_day: bool,
    any_weekday: bool,
}

/// The lowest and the highest number of each field.
const RANGES: [(u32, u32); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// What does not happen within so many years never does: the 30th of February.
const YEARS: i16 = 5;

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        if let Some(every) = text.strip_prefix("@every ") {
            let wrong = || format!("failed to parse duration {text}: time: invalid duration {every:?}");
            let every = crate::duration::nanoseconds(every).ok_or_else(wrong)?;
            let seconds = u64::try_from(every / 1_000_000_000).unwrap_or(0).max(1);
            return Ok(Self::Every(Duration::from_secs(seconds)));
        }
        let spelled = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => return Err(format!("unrecognized descriptor: {text}")),
            other => other,
        };
        let fields: Vec<&str> = spelled.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        let (days, any_day) = field(days, RANGES[2], &[])?;
        let (weekdays, any_weekday) = field(weekdays, RANGES[4], &WEEKDAYS)?;
        Ok(Self::Calendar(Calendar {
            minutes: field(minutes, RANGES[0], &[])?.0,
            hours: field(hours, RANGES[1], &[])?.0,
            months: field(months, RANGES[3], &MONTHS)?.0,
            days,
            weekdays,
            any_day,
            any_weekday,
        }))
    }

    /// The first time after this one; `None` if there is none.
    pub fn next(&self, after: &Zoned) -> Option<Zoned> {
        match self {
            Self::Every(every) => {
                let whole =
                    after.round(ZonedRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Trunc));
                whole.ok()?.checked_add(*every).ok()
            }
            Self::Calendar(calendar) => calendar.next(after),
        }
    }
}

/// The numbers of a field, and whether it is any number at all.
fn field(text: &str, range: (u32, u32), names: &[&str]) -> Result<(Set, bool), String> {
    let (mut set, mut any) = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (numbers, all) = part_of(part, range, names)?;
        set |= numbers;
        any |= all;
    }
    Ok((set, any))
}

fn part_of(part: &str, (low, high): (u32, u32), names: &[&str]) -> Result<(Set, bool), String> {
    let mut halves = part.split('/');
    let (range, step) = (halves.next().unwrap_or_default(), halves.next());
    if halves.next().is_some() {
        return Err(format!("too many slashes: {part}"));
    }
    let mut ends = range.split('-');
    let (first, last) = (ends.next().unwrap_or_default(), ends.next());
    if ends.next().is_some() {
        return Err(format!("too many hyphens: {part}"));
    }
    let any = matches!(first, "*" | "?");
    let (begin, end) = match (any, last) {
        (true, _) => (low, high),
        (false, Some(last)) => (number(first, low, names)?, number(last, low, names)?),
        // One number with a step goes on to the highest.
        (false, None) if step.is_some() => (number(first, low, names)?, high),
        (false, None) => number(first, low, names).map(|only| (only, only))?,
    };
    let step = step.map_or(Ok(1), |step| number(step, low, &[]))?;
    if begin < low {
        return Err(format!("beginning of range ({begin}) below minimum ({low}): {part}"));
    }
    if end > high {
        return Err(format!("end of range ({end}) above maximum ({high}): {part}"));
    }
    if begin > end {
        return Err(format!("beginning of range ({begin}) beyond end of range ({end}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    let numbers = (begin..=end).step_by(step as usize).fold(0, |set, number| set | 1 << number);
    Ok((numbers, any && step == 1))
}

/// A number, or a name of which the first is `low`.
fn number(text: &str, low: u32, names: &[&str]) -> Result<u32, String> {
    if let Some(at) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(low + u32::try_from(at).unwrap_or(0));
    }
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(_) => {
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
        }
    }
}

fn holds(set: Set, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| set & (1 << number) != 0)
}

impl Calendar {
    fn has_day(&self, date: Date) -> bool {
        let day = holds(self.days, date.day());
        let weekday = holds(self.weekdays, date.weekday().to_sunday_zero_offset());
        if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }

    fn next(&self, after: &Zoned) -> Option<Zoned> {
        let minute = ZonedRound::new().smallest(Unit::Minute).mode(jiff::RoundMode::Trunc);
        let mut at = after.round(minute).ok()?.checked_add(1.minute()).ok()?;
        let last = at.year().saturating_add(YEARS);
        while at.year() <= last {
            at = if !holds(self.months, at.month()) {
                let month = at.date().first_of_month().checked_add(1.month()).ok()?;
                month.to_zoned(at.time_zone().clone()).ok()?
            } else if !self.has_day(at.date()) {
                at.tomorrow().ok()?.start_of_day().ok()?
            } else if !holds(self.hours, at.hour()) {
                let into = i64::from(at.minute());
                at.checked_sub(into.minutes()).ok()?.checked_add(1.hour()).ok()?
            } else if !holds(self.minutes, at.minute()) {
                at.checked_add(1.minute()).ok()?
            } else {
                return Some(at);
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(schedule: &str, from: &str) -> String {
        let from: Zoned = from.parse().expect("a literal");
        let next = Schedule::parse(schedule).expect(schedule).next(&from);
        next.map_or_else(|| "never".to_owned(), |next| next.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
    }

    #[test]
    fn the_next_time() {
        let from = "2026-03-01T12:34:56.7[UTC]"; // a Sunday
        for (schedule, expected) in [
            ("* * * * *", "2026-03-01T12:35:00+00:00"),
            ("*/15 * * * *", "2026-03-01T12:45:00+00:00"),
            ("5/20 * * * *", "2026-03-01T12:45:00+00:00"),
            ("0 0 * * *", "2026-03-02T00:00:00+00:00"),
            ("34 12 * * *", "2026-03-02T12:34:00+00:00"),
            ("0 9-17/4 * * Mon-Fri", "2026-03-02T09:00:00+00:00"),
            ("30 6 1,15 * *", "2026-03-15T06:30:00+00:00"),
            // Either day, if both are given; a step does not leave a day open.
            ("0 0 10 * mon", "2026-03-02T00:00:00+00:00"),
            ("0 0 */10 * mon", "2026-03-02T00:00:00+00:00"),
            ("0 0 29 feb ?", "2028-02-29T00:00:00+00:00"),
            ("0 0 30 2 *", "never"),
            ("@yearly", "2027-01-01T00:00:00+00:00"),
            ("@weekly", "2026-03-08T00:00:00+00:00"),
            ("@every 1h30m", "2026-03-01T14:04:56+00:00"),
            ("@every 1ms", "2026-03-01T12:34:57+00:00"),
        ] {
            assert_eq!(after(schedule, from), expected, "{schedule}");
        }
    }

    #[test]
    fn clocks_that_are_set() {
        let before = "2026-03-28T12:00:00[Europe/Berlin]";
        assert_eq!(after("30 2 * * *", before), "2026-03-30T02:30:00+02:00", "there is no half past two");
        assert_eq!(after("0 * * * *", "2026-03-29T01:30:00[Europe/Berlin]"), "2026-03-29T03:00:00+02:00");
        let once = "2026-10-25T02:30:00+02:00[Europe/Berlin]";
        assert_eq!(after("30 2 * * *", once), "2026-10-25T02:30:00+01:00", "it is half past two again");
        assert_eq!(after("0 0 * * *", "2026-07-01T12:00:00[Asia/Kathmandu]"), "2026-07-02T00:00:00+05:45");
    }

    #[test]
    fn what_is_no_schedule() {
        for (schedule, expected) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 5-2", "beginning of range (5) beyond end of range (2): 5-2"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
            ("@every soon", "failed to parse duration @every soon: time: invalid duration \"soon\""),
        ] {
            assert_eq!(Schedule::parse(schedule), Err(expected.to_owned()), "{schedule}");
        }
    }
}
