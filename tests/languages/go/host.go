// The functions of the host (ABI 0.2.1) and what makes them pleasant to call. A text is passed as address and length.

package main

import (
	"encoding/binary"
	"unsafe"
)

//go:wasmimport env proxy_log
func hostLog(level uint32, text string) uint32

//go:wasmimport env proxy_get_header_map_value
func hostGetHeader(kind uint32, name string, data unsafe.Pointer, length unsafe.Pointer) uint32

//go:wasmimport env proxy_add_header_map_value
func hostAddHeader(kind uint32, name string, value string) uint32

//go:wasmimport env proxy_replace_header_map_value
func hostReplaceHeader(kind uint32, name string, value string) uint32

//go:wasmimport env proxy_remove_header_map_value
func hostRemoveHeader(kind uint32, name string) uint32

//go:wasmimport env proxy_get_buffer_bytes
func hostGetBuffer(kind uint32, start uint32, most uint32, data unsafe.Pointer, length unsafe.Pointer) uint32

//go:wasmimport env proxy_set_buffer_bytes
func hostSetBuffer(kind uint32, start uint32, size uint32, bytes string) uint32

//go:wasmimport env proxy_send_local_response
func hostReply(status uint32, details string, body string, headers string, grpcStatus int32) uint32

//go:wasmimport env proxy_http_call
func hostCall(upstream string, headers string, body string, trailers string, milliseconds uint32, token unsafe.Pointer) uint32

//go:wasmimport env proxy_get_shared_data
func hostGetShared(key string, data unsafe.Pointer, length unsafe.Pointer, cas unsafe.Pointer) uint32

//go:wasmimport env proxy_set_shared_data
func hostSetShared(key string, value string, cas uint32) uint32

//go:wasmimport env proxy_define_metric
func hostDefineMetric(kind uint32, name string, id unsafe.Pointer) uint32

//go:wasmimport env proxy_increment_metric
func hostIncrementMetric(id uint32, delta int64) uint32

//go:wasmimport env proxy_record_metric
func hostRecordMetric(id uint32, value uint64) uint32

//go:wasmimport env proxy_get_metric
func hostGetMetric(id uint32, value unsafe.Pointer) uint32

//go:wasmimport env proxy_get_property
func hostGetProperty(path string, data unsafe.Pointer, length unsafe.Pointer) uint32

//go:wasmimport env proxy_set_tick_period_milliseconds
func hostSetTickPeriod(milliseconds uint32) uint32

//go:wasmimport env proxy_set_effective_context
func hostSetEffectiveContext(context uint32) uint32

//go:wasmimport env proxy_continue_stream
func hostContinue(stream uint32) uint32

const (
	requestHeaders  = 0
	responseHeaders = 2
	callHeaders     = 6
	requestBody     = 0
	responseBody    = 1
	callBody        = 4
)

// What the host has allocated and we have not taken yet: so that the garbage collector leaves it alone.
var allocated = map[uint32][]byte{}

//go:wasmexport proxy_on_memory_allocate
func allocate(size uint32) unsafe.Pointer {
	bytes := make([]byte, size)
	address := unsafe.Pointer(&bytes[0])
	allocated[uint32(uintptr(address))] = bytes
	return address
}

// A result of the host: an address and a length of 32 bits, although pointers of Go take 64.
type result struct{ address, length uint32 }

func (r *result) data() unsafe.Pointer { return unsafe.Pointer(&r.address) }
func (r *result) size() unsafe.Pointer { return unsafe.Pointer(&r.length) }

func (r *result) taken() string {
	bytes := allocated[r.address]
	delete(allocated, r.address)
	return string(bytes[:min(int(r.length), len(bytes))])
}

func header(kind uint32, name string) (string, bool) {
	var r result
	status := hostGetHeader(kind, name, r.data(), r.size())
	return r.taken(), status == 0
}

func buffer(kind uint32, length uint32) string {
	var r result
	hostGetBuffer(kind, 0, length, r.data(), r.size())
	return r.taken()
}

// Headers as the ABI writes them.
func pairs(fields ...[2]string) string {
	blob := binary.LittleEndian.AppendUint32(nil, uint32(len(fields)))
	for _, field := range fields {
		blob = binary.LittleEndian.AppendUint32(blob, uint32(len(field[0])))
		blob = binary.LittleEndian.AppendUint32(blob, uint32(len(field[1])))
	}
	for _, field := range fields {
		blob = append(blob, field[0]+"\x00"+field[1]+"\x00"...)
	}
	return string(blob)
}
