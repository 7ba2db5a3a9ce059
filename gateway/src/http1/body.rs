//! A body on its way in: where it ends, and its pieces.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::{
    Malformed,
    chunks::{Chunks, Next},
    take, trailers,
};

/// How a body ends (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
    /// With the connection: responses only.
    Close,
}

/// Takes a body out of what is read.
#[derive(Debug)]
pub(crate) struct Decoder(State);

#[derive(Debug)]
enum State {
    Length(u64),
    Chunks(Chunks),
    Trailers,
    Close,
    Ended,
    Broken(Malformed),
}

/// The next of a body.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Data, at least one byte.
    Data(Bytes),
    /// The trailers, at least one; nothing follows.
    Trailers(HeaderMap),
    /// That was all.
    End,
    /// More has to be read.
    Missing,
}

/// Where the end of the connection leaves a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut;

/// Reads ask for so much more than is left: who gets less than was asked for knows that there is no more to be read now.
const BEHIND: usize = 8 * 1024;

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunks(Chunks::new()),
            Framing::Close => State::Close,
        })
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.0, State::Ended)
    }

    /// Bytes that are left, where that was announced.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            State::Ended => Some(0),
            State::Chunks(_) | State::Trailers | State::Close | State::Broken(_) => None,
        }
    }

    /// So many bytes went another way; never more than are [left](Self::left).
    pub(crate) fn skip(&mut self, bytes: usize) {
        if let State::Length(left) = &mut self.0 {
            *left = left.saturating_sub(bytes as u64);
            if *left == 0 {
                self.0 = State::Ended;
            }
        }
    }

    /// How much to read at once, at most.
    pub(crate) fn read_size(&self) -> usize {
        match self.0 {
            State::Length(left) => usize::try_from(left).unwrap_or(usize::MAX).saturating_add(BEHIND),
            State::Close | State::Chunks(_) => usize::MAX,
            State::Trailers | State::Ended | State::Broken(_) => BEHIND,
        }
    }

    /// Takes the next piece out of what was read.
    ///
    /// # Errors
    /// The bytes are no body. It stays so.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match &mut self.0 {
                State::Ended => return Ok(Piece::End),
                State::Broken(why) => return Err(*why),
                _ if buffer.is_empty() => return Ok(Piece::Missing),
                State::Length(left) => {
                    let here = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= here as u64;
                    if *left == 0 {
                        self.0 = State::Ended;
                    }
                    return Ok(Piece::Data(take(buffer, here)));
                }
                State::Close => return Ok(Piece::Data(std::mem::take(buffer).freeze())),
                State::Chunks(chunks) => match Self::follow(chunks, buffer) {
                    Ok(Next::Framing) => return Ok(Piece::Missing),
                    Ok(Next::Trailers) => self.0 = State::Trailers,
                    Ok(Next::Data(_)) if buffer.is_empty() => return Ok(Piece::Missing),
                    Ok(Next::Data(left)) => {
                        let here = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        chunks.took(here as u64);
                        let data = take(buffer, here);
                        self.look_ahead(buffer);
                        return Ok(Piece::Data(data));
                    }
                    Err(why) => self.0 = State::Broken(why),
                },
                State::Trailers => match trailers::take(buffer) {
                    Ok(None) => return Ok(Piece::Missing),
                    Ok(Some(trailers)) => {
                        self.0 = State::Ended;
                        return Ok(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) });
                    }
                    Err(why) => self.0 = State::Broken(why),
                },
            }
        }
    }

    /// Whoever passes data on wants to know whether it was the last: the end is often there already.
    fn look_ahead(&mut self, buffer: &mut BytesMut) {
        let State::Chunks(chunks) = &mut self.0 else { return };
        match Self::follow(chunks, buffer) {
            Ok(Next::Trailers) if buffer.starts_with(b"\r\n") => {
                bytes::Buf::advance(buffer, 2);
                self.0 = State::Ended;
            }
            Ok(Next::Trailers) => self.0 = State::Trailers,
            Ok(Next::Framing | Next::Data(_)) => {}
            Err(why) => self.0 = State::Broken(why),
        }
    }

    fn follow(chunks: &mut Chunks, buffer: &mut BytesMut) -> Result<Next, Malformed> {
        let (framing, next) = chunks.follow(buffer)?;
        bytes::Buf::advance(buffer, framing);
        Ok(next)
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// The body has not.
    pub(crate) fn close(&mut self) -> Result<(), Cut> {
        match self.0 {
            State::Close | State::Ended => {
                self.0 = State::Ended;
                Ok(())
            }
            _ => Err(Cut),
        }
    }
}
