// The plugin of ../README.md in AssemblyScript, on @solo-io/proxy-runtime; what that does not have is called as the ABI
// has it.

export * from "@solo-io/proxy-runtime/proxy";
import {
  BaseContext, Context, FilterDataStatusValues, FilterHeadersStatusValues, GrpcStatusValues, HeaderPair, Headers,
  LogLevelValues, RootContext, WasmResultValues, log, registerRootContext, send_local_response, stream_context,
} from "@solo-io/proxy-runtime";
import * as runtime from "@solo-io/proxy-runtime/runtime";
import * as host from "@solo-io/proxy-runtime/imports";

// @ts-ignore: decorator
@external("env", "proxy_set_buffer_bytes")
declare function proxy_set_buffer_bytes(kind: u32, start: u32, size: u32, bytes: usize, length: u32): u32;

const LANGUAGE = "AssemblyScript";

let counter: u32 = 0, gauge: u32 = 0, histogram: u32 = 0;
let waiting: Array<u32> = [];

function define(kind: runtime.MetricTypeValues, name: string): u32 {
  return runtime.define_metric(kind, name).metric_id;
}

function pair(name: string, value: string): HeaderPair {
  return new HeaderPair(String.UTF8.encode(name), String.UTF8.encode(value));
}

// Where the host puts results: a number of 64 bits, or an address and a length, and a number.
const result = new ArrayBuffer(16);

function at(place: usize): usize {
  return changetype<usize>(result) + place;
}

function setBody(kind: u32, start: u32, size: u32, text: string): void {
  const bytes = String.UTF8.encode(text);
  proxy_set_buffer_bytes(kind, start, size, changetype<usize>(bytes), bytes.byteLength);
}

class Root extends RootContext {
  createContext(id: u32): Context {
    return new Stream(id, this);
  }

  onConfigure(size: u32): bool {
    counter = define(runtime.MetricTypeValues.Counter, "lang_assemblyscript_counter");
    gauge = define(runtime.MetricTypeValues.Gauge, "lang_assemblyscript_gauge");
    histogram = define(runtime.MetricTypeValues.Histogram, "lang_assemblyscript_histogram");
    return true;
  }

  onTick(): void {
    for (let i = 0; i < waiting.length; i++) {
      if (host.proxy_set_effective_context(waiting[i]) == WasmResultValues.Ok) {
        stream_context.headers.request.replace("x-ticked", "yes");
        runtime.continue_request();
      }
    }
    waiting = [];
    runtime.set_tick_period_milliseconds(0);
  }
}

class Stream extends Context {
  wish: string = "";

  constructor(id: u32, root: Root) {
    super(id, root);
  }

  onRequestHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    const headers = stream_context.headers.request;
    this.wish = headers.get("x-do");
    if (this.wish == "headers") {
      const bytes = runtime.get_header_map_value(runtime.HeaderMapTypeValues.RequestHeaders, String.UTF8.encode("x-bytes"));
      if (bytes.byteLength > 0) {
        runtime.add_header_map_value(runtime.HeaderMapTypeValues.RequestHeaders, String.UTF8.encode("x-copy"), bytes);
      }
      headers.add("x-add", "one");
      headers.add("x-add", "two");
      headers.replace("x-set", "set");
      headers.remove("x-gone");
    } else if (this.wish == "body") {
      headers.remove("content-length");
    } else if (this.wish == "reply") {
      const body = String.UTF8.encode("refused in " + LANGUAGE);
      send_local_response(403, "refused", body, [pair("x-reply", "yes")], <GrpcStatusValues>-1);
      return FilterHeadersStatusValues.StopIteration;
    } else if (this.wish == "call") {
      const asked: Headers = [pair(":method", "GET"), pair(":path", "/asked"), pair(":authority", "callee.example.dev")];
      const callee = "outbound|80||callee.default.svc.cluster.local";
      const begun = this.root_context.httpCall(callee, asked, new ArrayBuffer(0), [], 5000, this,
        (origin: BaseContext, count: u32, size: usize, trailers: u32): void => {
          const status = stream_context.headers.http_callback.get(":status");
          const body = String.UTF8.decode(runtime.get_buffer_bytes(runtime.BufferTypeValues.HttpCallResponseBody, 0, size as u32));
          stream_context.headers.request.replace("x-answer", status + " " + body);
          runtime.continue_request();
        });
      if (begun == WasmResultValues.Ok) {
        return FilterHeadersStatusValues.StopIteration;
      }
      headers.replace("x-answer", "no call");
    } else if (this.wish == "count") {
      this.count();
    } else if (this.wish == "metrics") {
      runtime.increment_metric(counter, 2);
      runtime.record_metric(gauge, 7);
      runtime.record_metric(histogram, 5);
      host.proxy_get_metric(counter, at(0));
      headers.replace("x-metric", load<u64>(at(0)).toString());
    } else if (this.wish == "tick") {
      waiting.push(this.context_id);
      runtime.set_tick_period_milliseconds(20);
      return FilterHeadersStatusValues.StopIteration;
    } else if (this.wish == "property") {
      headers.replace("x-property", String.UTF8.decode(runtime.get_property("request\0method")));
    } else if (this.wish == "log") {
      log(LogLevelValues.info, "hello from " + LANGUAGE);
    }
    return FilterHeadersStatusValues.Continue;
  }

  count(): void {
    const key = String.UTF8.encode("count");
    for (let attempt = 0; attempt < 10; attempt++) {
      let number: u64 = 0;
      store<u32>(at(8), 0);
      if (host.proxy_get_shared_data(changetype<usize>(key), key.byteLength, at(0), at(4), at(8)) == WasmResultValues.Ok) {
        const value = String.UTF8.decodeUnsafe(load<u32>(at(0)), load<u32>(at(4)));
        number = U64.parseInt(value);
      }
      const next = (number + 1).toString();
      const bytes = String.UTF8.encode(next);
      const cas = load<u32>(at(8));
      if (host.proxy_set_shared_data(changetype<usize>(key), key.byteLength, changetype<usize>(bytes), bytes.byteLength, cas) == WasmResultValues.Ok) {
        stream_context.headers.request.replace("x-counted", next);
        return;
      }
    }
  }

  onRequestBody(size: usize, end: bool): FilterDataStatusValues {
    if (this.wish != "body") return FilterDataStatusValues.Continue;
    if (!end) return FilterDataStatusValues.StopIterationAndBuffer;
    const body = String.UTF8.decode(runtime.get_buffer_bytes(runtime.BufferTypeValues.HttpRequestBody, 0, size as u32));
    setBody(0, 0, size as u32, body.toUpperCase());
    return FilterDataStatusValues.Continue;
  }

  onResponseHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    const headers = stream_context.headers.response;
    headers.add("x-plugin", LANGUAGE);
    if (this.wish == "headers") headers.remove("x-gone");
    if (this.wish == "body") headers.remove("content-length");
    return FilterHeadersStatusValues.Continue;
  }

  onResponseBody(size: usize, end: bool): FilterDataStatusValues {
    if (this.wish != "body") return FilterDataStatusValues.Continue;
    if (!end) return FilterDataStatusValues.StopIterationAndBuffer;
    setBody(1, 0, 0, "[");
    setBody(1, size as u32 + 1, 0, "]");
    return FilterDataStatusValues.Continue;
  }
}

registerRootContext((id: u32) => new Root(id), "");
