//! The corpus of what is not as it should be (`gateway_tests::strict`): what clients get, and what reaches the service,
//! from each version of HTTP to each.

use gateway_tests::PATIENCE;
use gateway_tests::server::Protocol::{Http1, Http2};
use gateway_tests::strict::{Case, Cut, Ours, Service, Size, corpus, exchange};

/// Sends the cases of a group to both services.
async fn run(group: &str, cuts: &[Cut]) {
    let ours = Ours::start().await.unwrap();
    let mut wrong = Vec::new();
    for case in corpus(Size::Small).iter().filter(|case| case.row.starts_with(group)) {
        for upstream in case.upstreams {
            let (front, recorder) = ours.over(*upstream).unwrap();
            for cut in cuts {
                let patience = std::env::var("P").map_or(PATIENCE, |p| std::time::Duration::from_millis(p.parse().unwrap()));
                let seen = exchange(case, front, recorder, patience, *cut).await.unwrap();
                if !case.accepts(&seen) {
                    let Case { row, what, client, .. } = case;eprintln!("{row} {client:?} {upstream:?} {cut:?} {what}\n   {}\n   {}", case.expected().chars().take(300).collect::<String>(), seen.text(case).chars().take(300).collect::<String>());
                    wrong.push(format!(
                        "{row} {client:?} to {upstream:?}, cut {cut:?}: {what}\n  expected: {}\n  was:      {}",
                        case.expected(),
                        seen.text(case)
                    ));
                }
            }
        }
    }
    ours.gateway().metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
    ours.gateway().metric_becomes("gateway_panics_total", &[], 0.0).await.unwrap();
    for upstream in [Http1, Http2] {
        let (front, recorder) = ours.over(upstream).unwrap();
        recorder.behave(Service::Answers);
        let mut client = gateway_tests::client::RawClient::connect(front).await.unwrap();
        assert_eq!(client.get("test.example.dev", "/").await.unwrap().status, 200, "{upstream:?}");
    }
    assert!(wrong.is_empty(), "{} are not as they should be:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn framing() {
    run("A", &[Cut::Nowhere, Cut::Everywhere]).await;
}

#[tokio::test]
async fn limits() {
    run("B", &[Cut::Nowhere]).await;
}

#[tokio::test]
async fn http2() {
    run("C", &[Cut::Nowhere]).await;
}

#[tokio::test]
async fn names() {
    run("D", &[Cut::Nowhere]).await;
}

#[tokio::test]
async fn upgrades() {
    run("E", &[Cut::Nowhere, Cut::Everywhere]).await;
}

#[tokio::test]
async fn tls() {
    run("F", &[Cut::Nowhere]).await;
}

#[tokio::test]
async fn services() {
    run("G", &[Cut::Nowhere]).await;
}
