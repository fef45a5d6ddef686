//! Requests to the query APIs of EC2 and ELBv2: signed, bounded in time and size, retried a few times.
//!
//! Requests are repeated when their answer is lost, creations without a token are not.

use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::connect::Connector;
use super::sign::{Credentials, Scope, amz_date, authorization};
use super::xml;
use crate::provider::{Answer, ProviderError};

/// Largest answer that is read.
const ANSWER: usize = 8 << 20;
/// Longest that a request may take.
const DEADLINE: Duration = Duration::from_secs(20);
const ATTEMPTS: u32 = 4;
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// What is waited if the cloud throttles and does not say how long.
const THROTTLED: Duration = Duration::from_secs(15);
/// The longest wait that a cloud can ask for.
const LONGEST: Duration = Duration::from_secs(300);
/// Unreserved characters stay.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// One of the two APIs.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub uri: Uri,
    /// Its name in signatures.
    pub service: &'static str,
    /// The API's version.
    pub version: &'static str,
}

/// Sends requests in the name of some credentials.
#[derive(Clone)]
pub struct Client {
    http: HttpClient<Connector, Full<Bytes>>,
    region: Arc<str>,
    credentials: Arc<Credentials>,
    clock: Clock,
    entropy: Entropy,
}

/// Parameters of a request, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// One more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push((name.into(), value.into()));
        self
    }

    /// A filter of EC2's: the number counts from 1.
    #[must_use]
    pub fn filter(self, number: usize, name: &str, values: &[&str]) -> Self {
        let named = self.with(format!("Filter.{number}.Name"), name);
        values.iter().enumerate().fold(named, |all, (index, value)| {
            all.with(format!("Filter.{number}.Value.{}", index + 1), *value)
        })
    }

    fn encode(&self, action: &str, version: &str) -> String {
        let mut body = format!("Action={action}&Version={version}");
        for (name, value) in &self.0 {
            let (name, value) = (utf8_percent_encode(name, FORM), utf8_percent_encode(value, FORM));
            body.push_str(&format!("&{name}={value}"));
        }
        body
    }
}

/// An error of the cloud's own, with its code.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As `InvalidVolume.NotFound`; empty if the request did not get that far.
    pub code: String,
    /// What it means.
    pub error: ProviderError,
}

impl From<Refusal> for ProviderError {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

impl Refusal {
    fn transient(message: String) -> Self {
        Self { code: String::new(), error: ProviderError::Transient(message) }
    }

    /// Whether another attempt may help, and how long the cloud asks to wait.
    fn retry(&self) -> Option<Option<Duration>> {
        match &self.error {
            ProviderError::Throttled { retry_after, .. } if *retry_after == THROTTLED => Some(None),
            ProviderError::Throttled { retry_after, .. } => Some(Some(*retry_after)),
            ProviderError::Transient(_) => Some(None),
            ProviderError::NotFound(_) | ProviderError::Permanent(_) => None,
        }
    }
}

impl Client {
    /// A client for a region.
    pub fn new(
        connector: Connector,
        region: &str,
        credentials: Credentials,
        clock: Clock,
        entropy: Entropy,
    ) -> Self {
        let http = HttpClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { http, region: region.into(), credentials: Arc::new(credentials), clock, entropy }
    }

    /// Sends a request until it succeeds, a few times at most.
    pub async fn call(
        &self,
        to: &Endpoint,
        action: &str,
        parameters: &Parameters,
    ) -> Result<String, Refusal> {
        self.repeat(to, action, parameters, true).await
    }

    /// Sends a creation that has no token: again only if it certainly was not done. Whoever asks looks what there is
    /// before asking again.
    pub async fn create(
        &self,
        to: &Endpoint,
        action: &str,
        parameters: &Parameters,
    ) -> Result<String, Refusal> {
        self.repeat(to, action, parameters, false).await
    }

    async fn repeat(
        &self,
        to: &Endpoint,
        action: &str,
        parameters: &Parameters,
        repeatable: bool,
    ) -> Result<String, Refusal> {
        let body = parameters.encode(action, to.version);
        let mut delay = FIRST_DELAY;
        for attempt in 1.. {
            let refusal = match self.attempt(to, action, &body).await {
                Ok(answer) => return Ok(answer),
                Err(refusal) => refusal,
            };
            let undone = matches!(refusal.error, ProviderError::Throttled { .. });
            let pause = match refusal.retry().filter(|_| repeatable || undone) {
                Some(None) if attempt < ATTEMPTS => delay.mul_f64(0.5 + self.entropy.unit_f64()),
                // A short pause is kept here; a long one is the controller's, so that other keys get their turn.
                Some(Some(asked)) if attempt < ATTEMPTS && asked <= Duration::from_secs(2) => asked,
                _ => return Err(refusal),
            };
            tracing::debug!(action, attempt, error = %refusal.error, "asking the cloud again");
            tokio::time::sleep(pause).await;
            delay *= 3;
        }
        unreachable!("the last attempt returns")
    }

    /// All pages of a list: `each` reads a page, `token` says where the next page's token is, and under which name it is sent.
    pub async fn pages<T>(
        &self,
        to: &Endpoint,
        action: &str,
        parameters: Parameters,
        (sent, token): (&str, &[&str]),
        mut each: impl FnMut(roxmltree::Node<'_, '_>) -> Vec<T>,
    ) -> Result<Vec<T>, Refusal> {
        let (mut all, mut next) = (Vec::new(), String::new());
        // A cloud that never comes to an end is broken: what is known of it cannot be acted on.
        for _ in 0..1000 {
            let page = match next.as_str() {
                "" => parameters.clone(),
                next => parameters.clone().with(sent, next),
            };
            let answer = self.call(to, action, &page).await?;
            let document = xml::parse(&answer).map_err(|error| Refusal { code: String::new(), error })?;
            all.extend(each(document.root_element()));
            let following = xml::text(document.root_element(), token).to_owned();
            if following.is_empty() {
                return Ok(all);
            }
            if following == next {
                break;
            }
            next = following;
        }
        Err(Refusal::transient(format!("{action}: the list of pages does not end")))
    }

    async fn attempt(&self, to: &Endpoint, action: &str, body: &str) -> Result<String, Refusal> {
        let request = self.request(to, body).map_err(|what| Refusal {
            code: String::new(),
            error: ProviderError::Permanent(format!("{action}: {what}")),
        })?;
        let answered = async {
            let response = self.http.request(request).await.map_err(|error| chain(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER).collect().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((head, body.to_bytes()))
        };
        let (head, body) = match tokio::time::timeout(DEADLINE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(what)) => return Err(Refusal::transient(format!("{action}: {what}"))),
            Err(_) => {
                return Err(Refusal::transient(format!(
                    "{action}: no answer within {}s",
                    DEADLINE.as_secs()
                )));
            }
        };
        let text = String::from_utf8_lossy(&body);
        if head.status == StatusCode::OK {
            return Ok(text.into_owned());
        }
        let wait =
            head.headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Err(refusal(action, head.status, wait.map(Duration::from_secs), &text))
    }

    fn request(&self, to: &Endpoint, body: &str) -> Result<Request<Full<Bytes>>, String> {
        let host = to.uri.authority().ok_or("the endpoint has no host")?.as_str();
        let date = amz_date(self.clock.now());
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        let mut headers = vec![("content-type", kind), ("host", host), ("x-amz-date", &date)];
        if let Some(token) = &self.credentials.session_token {
            headers.push(("x-amz-security-token", token));
        }
        let scope = Scope { region: &self.region, service: to.service };
        let signed =
            authorization(&self.credentials, &scope, ("POST", "/"), &headers, body.as_bytes(), &date);
        let mut request = Request::post(to.uri.clone()).header(http::header::AUTHORIZATION, signed);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).map_err(|error| error.to_string())
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// What an answer that is not 200 means.
fn refusal(action: &str, status: StatusCode, wait: Option<Duration>, body: &str) -> Refusal {
    let (code, message) = code_and_message(body);
    let words = match code.as_str() {
        "" => format!("{action}: {status}"),
        code => format!("{action}: {code}: {message}"),
    };
    let throttles = [
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "EC2ThrottledException",
        "SlowDown",
        "VolumeModificationRateExceeded",
        "PriorRequestNotComplete",
    ];
    let busy = [
        "InternalError",
        "InternalFailure",
        "Unavailable",
        "ServiceUnavailable",
        "RequestExpired",
        "IncorrectState",
        "VolumeInUse",
        "ResourceInUse",
        "DependencyViolation",
        "IncorrectModificationState",
        "InsufficientInstanceCapacity",
    ];
    let error = if throttles.contains(&code.as_str()) || status == StatusCode::TOO_MANY_REQUESTS {
        let retry_after = wait.unwrap_or(THROTTLED).min(LONGEST);
        ProviderError::Throttled { retry_after, message: words }
    } else if let (Some(wait), true) = (wait, status.is_server_error()) {
        ProviderError::Throttled { retry_after: wait.min(LONGEST), message: words }
    } else if status.is_server_error() || busy.contains(&code.as_str()) || code.starts_with("Duplicate") {
        // A duplicate is what an earlier attempt made: it is found when it is looked for.
        ProviderError::Transient(words)
    } else if code.ends_with("NotFound") || code.ends_with("NotFoundException") {
        ProviderError::NotFound(words)
    } else {
        ProviderError::Permanent(words)
    };
    Refusal { code, error }
}

/// EC2 and ELB wrap their errors differently.
fn code_and_message(body: &str) -> (String, String) {
    let Ok(document) = xml::parse(body) else { return (String::new(), String::new()) };
    let found = document.descendants().find(|node| node.tag_name().name() == "Error");
    let field = |name| found.map(|error| xml::text(error, &[name]).to_owned()).unwrap_or_default();
    (field("Code"), field("Message"))
}

/// One request whose answer has no pages.
pub async fn call_and_read<T>(
    client: &Client,
    to: &Endpoint,
    action: &str,
    parameters: &Parameters,
    read: impl FnOnce(roxmltree::Node<'_, '_>) -> T,
) -> Answer<T> {
    let answer = client.call(to, action, parameters).await?;
    let document = xml::parse(&answer)?;
    Ok(read(document.root_element()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_refusals_mean() {
        let ec2 = |code: &str| {
            format!(
                "<Response><Errors><Error><Code>{code}</Code><Message>m</Message></Error></Errors></Response>"
            )
        };
        let elb = |code: &str| {
            format!(
                "<ErrorResponse xmlns='x'><Error><Code>{code}</Code><Message>m</Message></Error></ErrorResponse>"
            )
        };
        let cases = [
            (400, ec2("InvalidVolume.NotFound"), None, "not found: A: InvalidVolume.NotFound: m"),
            (400, elb("LoadBalancerNotFound"), None, "not found: A: LoadBalancerNotFound: m"),
            (
                503,
                ec2("RequestLimitExceeded"),
                Some(7),
                "throttled, to be tried again in 7s: A: RequestLimitExceeded: m",
            ),
            (400, elb("Throttling"), None, "throttled, to be tried again in 15s: A: Throttling: m"),
            (
                429,
                String::new(),
                Some(9999),
                "throttled, to be tried again in 300s: A: 429 Too Many Requests",
            ),
            (
                503,
                "<html>".to_owned(),
                Some(3),
                "throttled, to be tried again in 3s: A: 503 Service Unavailable",
            ),
            (500, "oops".to_owned(), None, "A: 500 Internal Server Error"),
            (400, ec2("VolumeInUse"), None, "A: VolumeInUse: m"),
            (403, ec2("UnauthorizedOperation"), None, "A: UnauthorizedOperation: m"),
        ];
        for (status, body, wait, words) in cases {
            let status = StatusCode::from_u16(status).expect("a status");
            let refusal = refusal("A", status, wait.map(Duration::from_secs), &body);
            assert_eq!(refusal.error.to_string(), words);
        }
    }

    #[test]
    fn parameters_are_encoded_strictly() {
        let parameters = Parameters::default().filter(1, "tag:a/b", &["x y", "ü"]);
        let expected =
            "Action=D&Version=1&Filter.1.Name=tag%3Aa%2Fb&Filter.1.Value.1=x%20y&Filter.1.Value.2=%C3%BC";
        assert_eq!(parameters.encode("D", "1"), expected);
    }
}
