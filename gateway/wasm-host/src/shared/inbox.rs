//! What an instance has to be told from other threads: new items in queues that it has registered.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use super::lock;

/// News for one instance, in order.
#[derive(Default)]
pub(crate) struct Inbox(Mutex<News>);

#[derive(Default)]
struct News {
    /// Somebody asks for them.
    listening: bool,
    /// Numbers of queues, once for each item.
    queues: VecDeque<u32>,
    waker: Option<Waker>,
}

impl Inbox {
    /// A queue has a new item. False if nobody listens here. At most `max` are kept; items themselves are never lost.
    pub(crate) fn put(&self, queue: u32, max: usize) -> bool {
        let mut news = lock(&self.0);
        if news.listening && news.queues.len() < max {
            news.queues.push_back(queue);
            if let Some(waker) = news.waker.take() {
                waker.wake();
            }
        }
        news.listening
    }

    /// The next queue with an item.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<u32> {
        let mut news = lock(&self.0);
        news.listening = true;
        if let Some(queue) = news.queues.pop_front() {
            return Poll::Ready(queue);
        }
        news.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Nobody listens any more.
    pub(crate) fn close(&self) {
        *lock(&self.0) = News::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_listen_are_told() {
        let inbox = Inbox::default();
        let cx = Context::from_waker(Waker::noop());
        assert!(!inbox.put(1, 2));
        assert_eq!(inbox.poll(&cx), Poll::Pending);
        assert!(inbox.put(1, 2) && inbox.put(2, 2) && inbox.put(3, 2));
        assert_eq!(
            (inbox.poll(&cx), inbox.poll(&cx), inbox.poll(&cx)),
            (Poll::Ready(1), Poll::Ready(2), Poll::Pending)
        );
        inbox.close();
        assert!(!inbox.put(1, 2));
    }
}
