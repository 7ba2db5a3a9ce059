//! What a script says: lines (or parts between ` | `) of the form `AT CALL ARGUMENT …`.
//!
//! AT is a callback, several with `,` between, or `*` for all. `AT#2` is its second time only, `AT!` only with the end of
//! the message. CALL is a host function without `proxy_`, or
//! `return`, with what the callback returns, `pairs`, which shows a whole map, or `trap`.
//!
//! An argument is a number (`L` behind it: of 64 bits); a text in quotes, with escapes as in Rust (`\x00`), which is two
//! arguments, address and length; `{name=value;…}`, headers in the form of the ABI, two as well; `>n`, `>q`, `>d`, places
//! for a result: a number of 32 or 64 bits, or address and length of bytes. `$0`, `$1`, … are the numbers that the calls of
//! this stream have given so far, `@self` is its context.

/// One host call.
#[derive(Clone)]
pub(crate) struct Step {
    at: Vec<String>,
    nth: Option<u32>,
    only_at_end: bool,
    pub(crate) call: String,
    pub(crate) arguments: Vec<Argument>,
    /// As it stands in the script, without AT.
    pub(crate) text: String,
}

#[derive(Clone)]
pub(crate) enum Argument {
    Number(u32),
    Long(i64),
    Bytes(Vec<u8>),
    Number32Out,
    Number64Out,
    BytesOut,
    Nth(usize),
    Own,
}

impl Step {
    pub(crate) fn at(&self, at: &str) -> bool {
        self.at.iter().any(|own| own == at || own == "*")
    }

    pub(crate) fn applies(&self, at: &str, nth: u32, end: bool) -> bool {
        self.at(at) && self.nth.is_none_or(|own| own == nth) && (end || !self.only_at_end)
    }

    /// The first argument of `return`.
    pub(crate) fn number(&self) -> Option<u32> {
        match self.arguments.first() {
            Some(Argument::Number(number)) => Some(*number),
            _ => None,
        }
    }
}

pub(crate) fn parse(text: &str) -> Vec<Step> {
    text.split(['\n', '|']).filter_map(|line| step(line.trim())).collect()
}

fn step(line: &str) -> Option<Step> {
    let (at, text) = line.split_once(' ')?;
    let text = text.trim();
    let (at, only_at_end) = at.strip_suffix('!').map_or((at, false), |at| (at, true));
    let (at, nth) = at.split_once('#').map_or((at, None), |(at, nth)| (at, nth.parse().ok()));
    let mut words = words(text).into_iter();
    Some(Step {
        at: at.split(',').map(str::to_owned).collect(),
        nth,
        only_at_end,
        call: words.next()?,
        arguments: words.map(|word| argument(&word)).collect(),
        text: text.to_owned(),
    })
}

/// Splits at spaces that are not within quotes or braces.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut within) = (Vec::new(), String::new(), None);
    for letter in text.chars() {
        match (letter, within) {
            (' ', None) => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            ('"', None) => within = Some('"'),
            ('{', None) => within = Some('}'),
            (letter, Some(end)) if letter == end => within = None,
            _ => {}
        }
        if letter != ' ' || within.is_some() {
            word.push(letter);
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

fn argument(word: &str) -> Argument {
    if let Some(text) = word.strip_prefix('"') {
        return Argument::Bytes(unescaped(text.trim_end_matches('"')));
    }
    if let Some(text) = word.strip_prefix('{') {
        return Argument::Bytes(pairs(text.trim_end_matches('}')));
    }
    if let Some(nth) = word.strip_prefix('$') {
        return Argument::Nth(nth.parse().unwrap_or(usize::MAX));
    }
    match word {
        ">n" => Argument::Number32Out,
        ">q" => Argument::Number64Out,
        ">d" => Argument::BytesOut,
        "@self" => Argument::Own,
        _ => match word.strip_suffix('L') {
            Some(long) => Argument::Long(long.parse().unwrap_or_default()),
            None => Argument::Number(number(word)),
        },
    }
}

fn number(word: &str) -> u32 {
    let hexadecimal = word.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
    hexadecimal.or_else(|| word.parse().ok()).or_else(|| Some(word.parse::<i32>().ok()? as u32)).unwrap_or_default()
}

fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        let hexadecimal = behind.strip_prefix(b"x").and_then(|digits| digits.get(..2));
        let byte = hexadecimal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match byte {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = behind.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
}

/// Headers as the ABI writes them.
fn pairs(text: &str) -> Vec<u8> {
    let pairs: Vec<_> = text
        .split(';')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (unescaped(name), unescaped(value)))
        .collect();
    let length = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
    let mut blob = (pairs.len() as u32).to_le_bytes().to_vec();
    for (name, value) in &pairs {
        blob.extend([length(name), length(value)].concat());
    }
    for (name, value) in &pairs {
        blob.extend([name, &[0][..], value, &[0]].concat());
    }
    blob
}
