//! gRPC without generated code: a server that offers all four shapes of calls, and a client for them, both tonic.
//!
//! | method | shape | what it does |
//! |---|---|---|
//! | `Say` | unary | gives the number back; a negative one is answered with that status |
//! | `Count` | server streams | 1, 2, … up to the number; with a payload it then fails |
//! | `Sum` | client streams | adds up |
//! | `Chat` | both stream | answers each number with its double, at once |
//! | `Wait` | unary | never answers; [`EchoServer::abandoned`] tells that it was given up |

use crate::within;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::codegen::{BoxFuture, BoxStream, Context, Poll, Service, http};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// What every method takes and gives.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Number {
    /// The number.
    #[prost(int64, tag = "1")]
    pub value: i64,
    /// Anything else.
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

impl Number {
    /// A number without a payload.
    pub fn new(value: i64) -> Number {
        Number { value, payload: Vec::new() }
    }
}

/// A gRPC server on a free port; it ends when it is dropped.
pub struct EchoServer {
    address: SocketAddr,
    state: Arc<State>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Metadata of every call so far.
    calls: watch::Sender<Vec<MetadataMap>>,
    abandoned: watch::Sender<usize>,
}

impl EchoServer {
    /// Starts it on 127.0.0.1, HTTP/2 without TLS.
    pub async fn start() -> anyhow::Result<EchoServer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::<State>::default();
        let service = Echo(Arc::clone(&state));
        let serving = tokio::spawn(async move {
            // It ends with its task; before that nothing can fail.
            let _ = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        Ok(EchoServer { address, state, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until so many calls have begun, and gives the metadata of each.
    pub async fn calls(&self, count: usize) -> anyhow::Result<Vec<MetadataMap>> {
        let mut calls = self.state.calls.subscribe();
        let calls = within(&format!("call {count}"), calls.wait_for(|calls| calls.len() >= count)).await??;
        Ok(calls.clone())
    }

    /// Waits until so many calls of `Wait` have been given up.
    pub async fn abandoned(&self, count: usize) -> anyhow::Result<()> {
        let mut abandoned = self.state.abandoned.subscribe();
        within("a call to be given up", abandoned.wait_for(|abandoned| *abandoned >= count)).await??;
        Ok(())
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Something that is told when a call ends without having been answered.
struct Abandoned(Arc<State>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.abandoned.send_modify(|count| *count += 1);
    }
}

fn say(request: Request<Number>) -> BoxFuture<Response<Number>, Status> {
    Box::pin(async move {
        let number = request.into_inner();
        if number.value < 0 {
            let code = i32::try_from(-number.value).map_or(Code::Unknown, Code::from);
            let mut status = Status::with_details(code, "as told: ü%", vec![1, 2, 3].into());
            status.metadata_mut().insert("x-why", tonic::metadata::MetadataValue::from_static("because"));
            return Err(status);
        }
        let mut response = Response::new(number);
        response.metadata_mut().insert("x-head", tonic::metadata::MetadataValue::from_static("yes"));
        Ok(response)
    })
}

fn count(request: Request<Number>) -> BoxFuture<Response<BoxStream<Number>>, Status> {
    Box::pin(async move {
        let Number { value, payload } = request.into_inner();
        let numbers = tokio_stream::iter((1..=value).map(|value| Ok(Number::new(value))));
        let end = (!payload.is_empty()).then(|| Err(Status::data_loss("the rest is lost")));
        let answers: BoxStream<Number> = Box::pin(numbers.chain(tokio_stream::iter(end)));
        Ok(Response::new(answers))
    })
}

fn sum(request: Request<Streaming<Number>>) -> BoxFuture<Response<Number>, Status> {
    Box::pin(async move {
        let mut numbers = request.into_inner();
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?.value;
        }
        Ok(Response::new(Number::new(sum)))
    })
}

fn chat(request: Request<Streaming<Number>>) -> BoxFuture<Response<BoxStream<Number>>, Status> {
    Box::pin(async move {
        let doubled = request.into_inner().map(|number| number.map(|number| Number::new(number.value * 2)));
        let doubled: BoxStream<Number> = Box::pin(doubled);
        Ok(Response::new(doubled))
    })
}

fn wait(state: Arc<State>) -> impl FnMut(Request<Number>) -> BoxFuture<Response<Number>, Status> {
    move |_| {
        let abandoned = Abandoned(Arc::clone(&state));
        Box::pin(async move {
            std::future::pending::<()>().await;
            drop(abandoned);
            Ok(Response::new(Number::default()))
        })
    }
}

/// The service as tonic's router wants it.
#[derive(Clone)]
struct Echo(Arc<State>);

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "tests.Echo";
}

/// A method of the service.
struct Method<F>(F);

impl<F, R, T> Service<Request<R>> for Method<F>
where
    F: FnMut(Request<R>) -> BoxFuture<Response<T>, Status>,
{
    type Response = Response<T>;
    type Error = Status;
    type Future = BoxFuture<Response<T>, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        (self.0)(request)
    }
}

impl Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let state = Arc::clone(&self.0);
        Box::pin(async move {
            let metadata = MetadataMap::from_headers(request.headers().clone());
            state.calls.send_modify(|calls| calls.push(metadata));
            let mut grpc =
                tonic::server::Grpc::new(ProstCodec::<Number, Number>::default()).max_decoding_message_size(16 << 20);
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match method.as_str() {
                "Say" => grpc.unary(Method(say), request).await,
                "Count" => grpc.server_streaming(Method(count), request).await,
                "Sum" => grpc.client_streaming(Method(sum), request).await,
                "Chat" => grpc.streaming(Method(chat), request).await,
                "Wait" => grpc.unary(Method(wait(state)), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// A client of [`EchoServer`], or of a gateway in front of it.
#[derive(Clone)]
pub struct EchoClient(tonic::client::Grpc<Channel>);

impl EchoClient {
    /// Connects, HTTP/2 without TLS.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<EchoClient> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.origin("http://test.example.dev".parse()?);
        let channel = within("a gRPC connection", endpoint.connect()).await??;
        Ok(EchoClient(tonic::client::Grpc::new(channel).max_decoding_message_size(16 << 20)))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Any unary method.
    pub async fn unary(&mut self, method: &'static str, request: Request<Number>) -> Result<Response<Number>, Status> {
        self.ready().await?;
        self.0.unary(request, path(method), ProstCodec::default()).await
    }

    /// `Count`
    pub async fn count(&mut self, number: Number) -> Result<Response<Streaming<Number>>, Status> {
        self.ready().await?;
        self.0.server_streaming(Request::new(number), path("Count"), ProstCodec::default()).await
    }

    /// `Sum`
    pub async fn sum(
        &mut self,
        numbers: impl Stream<Item = Number> + Send + 'static,
    ) -> Result<Response<Number>, Status> {
        self.ready().await?;
        self.0.client_streaming(Request::new(numbers), path("Sum"), ProstCodec::default()).await
    }

    /// `Chat`
    pub async fn chat(
        &mut self,
        numbers: impl Stream<Item = Number> + Send + 'static,
    ) -> Result<Response<Streaming<Number>>, Status> {
        self.ready().await?;
        self.0.streaming(Request::new(numbers), path("Chat"), ProstCodec::default()).await
    }
}

fn path(method: &'static str) -> http::uri::PathAndQuery {
    http::uri::PathAndQuery::try_from(format!("/tests.Echo/{method}"))
        .unwrap_or_else(|_| http::uri::PathAndQuery::from_static("/"))
}
