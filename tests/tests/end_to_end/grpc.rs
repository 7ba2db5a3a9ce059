//! gRPC through the gateway: all four shapes of calls between a real client and a real server.

use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::grpc::{EchoClient, EchoServer, Number};
use gateway_tests::resources::{GATEWAY, service_at, virtual_service};
use gateway_tests::{client::RawClient, within};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request};

async fn start() -> (TestGateway, EchoServer, EchoClient) {
    let server = EchoServer::start().await.unwrap();
    let resources = GATEWAY.to_owned()
        + &service_at("sample", "GRPC", &[server.address()])
        + &virtual_service(
            "everything",
            &["test.example.dev"],
            "
  - match: [{headers: {x-limited: {exact: 'yes'}}}]
    timeout: 0.3s
    route: [{destination: {host: sample}}]
  - route: [{destination: {host: sample}}]",
        );
    let gateway = Setup::new().file("all.yaml", resources).start().await.unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    let client = EchoClient::connect(gateway.address(80).unwrap()).await.unwrap();
    (gateway, server, client)
}

async fn counted(gateway: &TestGateway, status: &str, calls: f64) {
    let labels = [("request_protocol", "grpc"), ("grpc_response_status", status)];
    gateway.metric_becomes("istio_requests_total", &labels, calls).await.unwrap();
}

#[tokio::test]
async fn one_question_one_answer() {
    let (gateway, server, mut client) = start().await;
    let mut request = Request::new(Number::new(7));
    request.metadata_mut().insert("x-mine", "1".parse().unwrap());
    request.metadata_mut().insert_bin("x-mine-bin", tonic::metadata::MetadataValue::from_bytes(&[0, 255]));
    let response = client.unary("Say", request).await.unwrap();
    assert_eq!((response.get_ref().value, response.metadata().get("x-head").unwrap().to_str().unwrap()), (7, "yes"));
    let metadata = server.calls(1).await.unwrap().remove(0);
    assert_eq!(metadata.get("x-mine").unwrap(), "1");
    assert_eq!(metadata.get_bin("x-mine-bin").unwrap().to_bytes().unwrap()[..], [0, 255]);
    assert_eq!(metadata.get("te").unwrap(), "trailers");
    // Large messages span many frames and windows.
    let payload: Vec<u8> = (0..5 << 20).map(|at| (at % 251) as u8).collect();
    let large = Number { value: 1, payload };
    let echo = client.unary("Say", Request::new(large.clone())).await.unwrap().into_inner();
    assert!(echo == large);
    counted(&gateway, "0", 2.0).await;
}

#[tokio::test]
async fn an_error_is_told_as_the_server_told_it() {
    let (gateway, _server, mut client) = start().await;
    for code in [Code::NotFound, Code::PermissionDenied, Code::Unavailable, Code::Unauthenticated] {
        let status = client.unary("Say", Request::new(Number::new(-i64::from(code as i32)))).await.unwrap_err();
        assert_eq!((status.code(), status.message(), status.details()), (code, "as told: ü%", &[1, 2, 3][..]));
        assert_eq!(status.metadata().get("x-why").unwrap(), "because");
    }
    counted(&gateway, "5", 1.0).await;
    let status = client.unary("Nothing", Request::new(Number::new(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn one_question_many_answers() {
    let (gateway, _server, mut client) = start().await;
    let mut answers = client.count(Number::new(1000)).await.unwrap().into_inner();
    for expected in 1..=1000 {
        assert_eq!(answers.next().await.unwrap().unwrap().value, expected);
    }
    assert!(answers.next().await.is_none());
    counted(&gateway, "0", 1.0).await;
    // A status that comes after messages is in the trailers.
    let fails = Number { value: 2, payload: vec![1] };
    let mut answers = client.count(fails).await.unwrap().into_inner();
    assert_eq!(answers.next().await.unwrap().unwrap().value, 1);
    assert_eq!(answers.next().await.unwrap().unwrap().value, 2);
    assert_eq!(answers.next().await.unwrap().unwrap_err().code(), Code::DataLoss);
    counted(&gateway, "15", 1.0).await;
}

#[tokio::test]
async fn many_questions_one_answer() {
    let (_gateway, _server, mut client) = start().await;
    let sum = client.sum(tokio_stream::iter((1..=1000).map(Number::new))).await.unwrap();
    assert_eq!(sum.into_inner().value, 500_500);
    assert_eq!(client.sum(tokio_stream::empty()).await.unwrap().into_inner().value, 0);
}

#[tokio::test]
async fn both_sides_talk_at_once() {
    let (gateway, _server, mut client) = start().await;
    let (questions, stream) = mpsc::channel(1);
    // The head of the answer comes before the first question.
    let chat = within("the head of an answer", client.chat(ReceiverStream::new(stream))).await.unwrap();
    let mut answers = chat.unwrap().into_inner();
    for value in 0..500 {
        questions.send(Number::new(value)).await.unwrap();
        let answer = within("an answer", answers.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(answer.value, value * 2);
    }
    drop(questions);
    assert!(within("the end", answers.next()).await.unwrap().is_none());
    counted(&gateway, "0", 1.0).await;
}

#[tokio::test]
async fn a_call_that_is_given_up_is_given_up_everywhere() {
    let (gateway, server, mut client) = start().await;
    let call = tokio::spawn(async move { client.unary("Wait", Request::new(Number::new(1))).await });
    server.calls(1).await.unwrap();
    let began = Instant::now();
    call.abort();
    server.abandoned(1).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
}

#[tokio::test]
async fn deadlines_are_those_of_the_client_and_of_the_route() {
    let (gateway, server, mut client) = start().await;
    let mut request = Request::new(Number::new(1));
    request.set_timeout(Duration::from_millis(200));
    let status = client.unary("Wait", request).await.unwrap_err();
    // The client and the server both know the deadline; whoever is first says so.
    assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&status.code()), "{status}");
    assert!(server.calls(1).await.unwrap()[0].get("grpc-timeout").is_some());
    server.abandoned(1).await.unwrap();

    let mut request = Request::new(Number::new(1));
    request.metadata_mut().insert("x-limited", "yes".parse().unwrap());
    let status = client.unary("Wait", request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "upstream request timeout"));
    server.abandoned(2).await.unwrap();
    gateway.metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
}

#[tokio::test]
async fn a_server_that_ends_ends_its_calls() {
    let (_gateway, server, mut client) = start().await;
    let (questions, stream) = mpsc::channel(1);
    let mut answers = client.chat(ReceiverStream::new(stream)).await.unwrap().into_inner();
    questions.send(Number::new(1)).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().value, 2);
    drop(server);
    // tonic's connections live in tasks of their own; what reaches us is an error, never an answer that looks whole.
    if let Ok(end) = tokio::time::timeout(Duration::from_secs(1), answers.next()).await {
        assert!(end.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_client_over_http1_gets_the_status_too() {
    let (gateway, _server, _client) = start().await;
    let mut client = RawClient::connect(gateway.address(80).unwrap()).await.unwrap();
    // A message of one field: value 7.
    let body = b"\0\0\0\0\x02\x08\x07";
    client
        .send(
            [
                b"POST /tests.Echo/Say HTTP/1.1\r\nhost: test.example.dev\r\ncontent-type: application/grpc\r\n\
                  te: trailers\r\ncontent-length: 7\r\n\r\n"
                    .as_slice(),
                body,
            ]
            .concat(),
        )
        .await
        .unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.status, &response.body[..]), (200, &body[..]));
    assert_eq!(response.trailers, [("grpc-status".to_owned(), "0".to_owned())]);
    counted(&gateway, "0", 1.0).await;
}
