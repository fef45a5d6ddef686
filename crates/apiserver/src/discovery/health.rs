//! `/healthz`, `/livez` and `/readyz`, whole or check by check.

use http::{Response, StatusCode};

use crate::request::respond;
use crate::request::route::Call;
use crate::server::ApiServer;
use crate::types::Body;

struct Check {
    name: &'static str,
    failure: Option<String>,
}

/// Why the store does not do what it should, if so.
async fn store(server: &ApiServer) -> Option<String> {
    if !server.is_storing() {
        return Some("the store does not accept writes".to_owned());
    }
    server.store().check().await.err().map(|error| error.to_string())
}

async fn checks(server: &ApiServer, endpoint: &str) -> Vec<Check> {
    let check = |name, fine: bool, why: &str| Check { name, failure: (!fine).then(|| why.to_owned()) };
    // Nobody is helped by a restart of this server while the store cannot answer.
    let store = if endpoint == "livez" { None } else { store(server).await };
    let mut checks = vec![
        check("ping", true, ""),
        check("log", true, ""),
        Check { name: "etcd", failure: store.clone() },
        check("poststarthook/bootstrap-objects", server.is_ready() || endpoint == "livez", "not finished"),
    ];
    if endpoint == "readyz" {
        checks.push(Check { name: "etcd-readiness", failure: store });
        checks.push(check("informer-sync", true, ""));
        checks.push(check("shutdown", !server.shutdown().is_cancelled(), "the server is stopping"));
    }
    checks
}

/// Answers a health check. `segments` are those of the path.
pub async fn serve(server: &ApiServer, call: &Call, segments: &[&str]) -> Response<Body> {
    let endpoint = segments[0];
    let checks = checks(server, endpoint).await;
    if let [_, name @ ..] = segments
        && !name.is_empty()
    {
        let name = name.join("/");
        return match checks.iter().find(|check| check.name == name) {
            Some(Check { failure: None, .. }) => respond::text(StatusCode::OK, "ok"),
            Some(Check { failure: Some(why), .. }) => {
                respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}"))
            }
            None => respond::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
    }
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    let mut text = String::new();
    let mut failed = false;
    for check in &checks {
        let line = match &check.failure {
            _ if excluded.contains(&check.name) => format!("[+]{} excluded: ok\n", check.name),
            None => format!("[+]{} ok\n", check.name),
            Some(why) => {
                failed = true;
                format!("[-]{} failed: {why}\n", check.name)
            }
        };
        text.push_str(&line);
    }
    if failed {
        text.push_str(&format!("{endpoint} check failed\n"));
        return respond::text(StatusCode::INTERNAL_SERVER_ERROR, text);
    }
    if call.query.get("verbose").is_none() {
        return respond::text(StatusCode::OK, "ok");
    }
    text.push_str(&format!("{endpoint} check passed\n"));
    respond::text(StatusCode::OK, text)
}
