// The plugin of ../README.md in Go, as the standard compiler makes it (GOOS=wasip1 -buildmode=c-shared).

package main

import (
	"strconv"
	"strings"
	"unsafe"
)

const (
	language     = "Go"
	goOn, paused = 0, 1
)

var (
	// What streams want, by their contexts.
	wishes = map[uint32]string{}
	// Which stream a call belongs to.
	calls = map[uint32]uint32{}
	// Streams that wait for a tick.
	waiting                   []uint32
	counter, gauge, histogram uint32
)

// Never called: the module is a library.
func main() {}

//go:wasmexport proxy_abi_version_0_2_1
func version() {}

//go:wasmexport proxy_on_context_create
func onCreate(context, parent uint32) {}

//go:wasmexport proxy_on_vm_start
func onStart(root, size uint32) uint32 { return 1 }

//go:wasmexport proxy_on_configure
func onConfigure(root, size uint32) uint32 {
	hostDefineMetric(0, "lang_go_counter", unsafe.Pointer(&counter))
	hostDefineMetric(1, "lang_go_gauge", unsafe.Pointer(&gauge))
	hostDefineMetric(2, "lang_go_histogram", unsafe.Pointer(&histogram))
	return 1
}

//go:wasmexport proxy_on_request_headers
func onRequestHeaders(context, fields, end uint32) uint32 {
	wish, _ := header(requestHeaders, "x-do")
	wishes[context] = wish
	switch wish {
	case "headers":
		if bytes, there := header(requestHeaders, "x-bytes"); there {
			hostAddHeader(requestHeaders, "x-copy", bytes)
		}
		hostAddHeader(requestHeaders, "x-add", "one")
		hostAddHeader(requestHeaders, "x-add", "two")
		hostReplaceHeader(requestHeaders, "x-set", "set")
		hostRemoveHeader(requestHeaders, "x-gone")
	case "body":
		hostRemoveHeader(requestHeaders, "content-length")
	case "reply":
		hostReply(403, "refused", "refused in "+language, pairs([2]string{"x-reply", "yes"}), -1)
		return paused
	case "call":
		headers := pairs([2]string{":method", "GET"}, [2]string{":path", "/asked"}, [2]string{":authority", "callee.example.dev"})
		var token uint32
		if hostCall("outbound|80||callee.default.svc.cluster.local", headers, "", "", 5000, unsafe.Pointer(&token)) == 0 {
			calls[token] = context
			return paused
		}
		hostReplaceHeader(requestHeaders, "x-answer", "no call")
	case "count":
		count()
	case "metrics":
		var value uint64
		hostIncrementMetric(counter, 2)
		hostRecordMetric(gauge, 7)
		hostRecordMetric(histogram, 5)
		hostGetMetric(counter, unsafe.Pointer(&value))
		hostReplaceHeader(requestHeaders, "x-metric", strconv.FormatUint(value, 10))
	case "tick":
		waiting = append(waiting, context)
		hostSetTickPeriod(20)
		return paused
	case "property":
		var r result
		hostGetProperty("request\x00method", r.data(), r.size())
		hostReplaceHeader(requestHeaders, "x-property", r.taken())
	case "log":
		hostLog(2, "hello from "+language)
	}
	return goOn
}

func count() {
	for {
		var r result
		var cas uint32
		hostGetShared("count", r.data(), r.size(), unsafe.Pointer(&cas))
		number, _ := strconv.ParseUint(r.taken(), 10, 64)
		next := strconv.FormatUint(number+1, 10)
		if hostSetShared("count", next, cas) == 0 {
			hostReplaceHeader(requestHeaders, "x-counted", next)
			return
		}
	}
}

//go:wasmexport proxy_on_request_body
func onRequestBody(context, size, end uint32) uint32 {
	if wishes[context] != "body" {
		return goOn
	}
	if end == 0 {
		return paused
	}
	hostSetBuffer(requestBody, 0, size, strings.ToUpper(buffer(requestBody, size)))
	return goOn
}

//go:wasmexport proxy_on_response_headers
func onResponseHeaders(context, fields, end uint32) uint32 {
	hostAddHeader(responseHeaders, "x-plugin", language)
	switch wishes[context] {
	case "headers":
		hostRemoveHeader(responseHeaders, "x-gone")
	case "body":
		hostRemoveHeader(responseHeaders, "content-length")
	}
	return goOn
}

//go:wasmexport proxy_on_response_body
func onResponseBody(context, size, end uint32) uint32 {
	if wishes[context] != "body" {
		return goOn
	}
	if end == 0 {
		return paused
	}
	hostSetBuffer(responseBody, 0, 0, "[")
	hostSetBuffer(responseBody, size+1, 0, "]")
	return goOn
}

//go:wasmexport proxy_on_http_call_response
func onCallResponse(root, token, headers, size, trailers uint32) {
	status, _ := header(callHeaders, ":status")
	body := buffer(callBody, size)
	context := calls[token]
	delete(calls, token)
	if hostSetEffectiveContext(context) == 0 {
		hostReplaceHeader(requestHeaders, "x-answer", status+" "+body)
		hostContinue(0)
	}
}

//go:wasmexport proxy_on_tick
func onTick(root uint32) {
	for _, context := range waiting {
		if hostSetEffectiveContext(context) == 0 {
			hostReplaceHeader(requestHeaders, "x-ticked", "yes")
			hostContinue(0)
		}
	}
	waiting = nil
	hostSetTickPeriod(0)
}

//go:wasmexport proxy_on_done
func onDone(context uint32) uint32 { return 1 }

//go:wasmexport proxy_on_delete
func onDelete(context uint32) { delete(wishes, context) }
