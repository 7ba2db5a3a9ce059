;; The plugin of ../README.md in WebAssembly text, on the bare ABI (0.2.1).
;;
;; Memory: texts up to 2048; results of host calls at 2048 (address), 2052 (length), 2056 (CAS) and 2064 (64 bits); digits
;; before 2112; at 2112 the wish of each stream, its first three letters, by the last bits of its context; from 65536 on
;; what the host allocates, which is given back when a callback begins.
(module
  (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_value" (func $get_header_map_value (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value" (func $add_header_map_value (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_replace_header_map_value" (func $replace_header_map_value (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_remove_header_map_value" (func $remove_header_map_value (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes" (func $get_buffer_bytes (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_buffer_bytes" (func $set_buffer_bytes (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response" (func $send_local_response (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_http_call" (func $http_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_shared_data" (func $get_shared_data (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data" (func $set_shared_data (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_define_metric" (func $define_metric (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment_metric (param i32 i64) (result i32)))
  (import "env" "proxy_record_metric" (func $record_metric (param i32 i64) (result i32)))
  (import "env" "proxy_get_metric" (func $get_metric (param i32 i32) (result i32)))
  (import "env" "proxy_get_property" (func $get_property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_tick_period_milliseconds" (func $set_tick_period_milliseconds (param i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $set_effective_context (param i32) (result i32)))
  (import "env" "proxy_continue_stream" (func $continue_stream (param i32) (result i32)))

  (memory (export "memory") 2 16)
  (global $heap (mut i32) (i32.const 65536))
  (global $counter (mut i32) (i32.const 0))
  (global $gauge (mut i32) (i32.const 0))
  (global $histogram (mut i32) (i32.const 0))
  (global $waiting (mut i32) (i32.const 0))
  (global $calling (mut i32) (i32.const 0))

  (data (i32.const 16) "x-do")
  (data (i32.const 32) "x-bytes")
  (data (i32.const 48) "x-copy")
  (data (i32.const 64) "x-add")
  (data (i32.const 80) "one")
  (data (i32.const 96) "two")
  (data (i32.const 112) "x-set")
  (data (i32.const 128) "set")
  (data (i32.const 144) "x-gone")
  (data (i32.const 160) "content-length")
  (data (i32.const 176) "refused")
  (data (i32.const 192) "refused in WebAssembly text")
  (data (i32.const 224) "x-answer")
  (data (i32.const 240) " ")
  (data (i32.const 256) "count")
  (data (i32.const 272) "x-counted")
  (data (i32.const 288) "x-metric")
  (data (i32.const 304) "lang_text_counter")
  (data (i32.const 336) "lang_text_gauge")
  (data (i32.const 352) "lang_text_histogram")
  (data (i32.const 384) "x-ticked")
  (data (i32.const 400) "yes")
  (data (i32.const 416) "x-property")
  (data (i32.const 432) "request\00method")
  (data (i32.const 448) "hello from WebAssembly text")
  (data (i32.const 480) "x-plugin")
  (data (i32.const 496) "WebAssembly text")
  (data (i32.const 512) "[")
  (data (i32.const 528) "]")
  (data (i32.const 544) ":status")
  (data (i32.const 560) "outbound|80||callee.default.svc.cluster.local")
  ;; Headers as the ABI writes them.
  (data (i32.const 608) "\01\00\00\00\07\00\00\00\03\00\00\00x-reply\00yes\00")
  (data (i32.const 640) "\03\00\00\00\07\00\00\00\03\00\00\00\05\00\00\00\06\00\00\00\0a\00\00\00\12\00\00\00:method\00GET\00:path\00/asked\00:authority\00callee.example.dev\00")

  (func (export "proxy_abi_version_0_2_1"))

  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $heap))
    (global.set $heap (i32.add (global.get $heap) (local.get $size)))
    ;; More than there is: a page at a time.
    (block $enough
      (loop $grow
        (br_if $enough (i32.le_u (global.get $heap) (i32.shl (memory.size) (i32.const 16))))
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))
        (br $grow)))
    (local.get $at))

  (func $begin (global.set $heap (i32.const 65536)))

  (func $slot (param $context i32) (result i32)
    (i32.add (i32.const 2112) (i32.shl (i32.and (local.get $context) (i32.const 63)) (i32.const 2))))

  ;; Whether a stream wants this.
  (func $wants (param $context i32) (param $wish i32) (result i32)
    (i32.eq (i32.load (call $slot (local.get $context))) (local.get $wish)))

  ;; Reads a header into the results; 0 if it is there.
  (func $header (param $map i32) (param $name i32) (param $length i32) (result i32)
    (call $get_header_map_value (local.get $map) (local.get $name) (local.get $length) (i32.const 2048) (i32.const 2052)))

  (func $set (param $name i32) (param $length i32) (param $value i32) (param $size i32)
    (drop (call $replace_header_map_value (i32.const 0) (local.get $name) (local.get $length) (local.get $value) (local.get $size))))

  (func $add (param $map i32) (param $name i32) (param $length i32) (param $value i32) (param $size i32)
    (drop (call $add_header_map_value (local.get $map) (local.get $name) (local.get $length) (local.get $value) (local.get $size))))

  ;; Writes a number in digits that end before 2112, and answers where they begin.
  (func $digits (param $number i64) (result i32)
    (local $at i32)
    (local.set $at (i32.const 2112))
    (loop $next
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $number) (i64.const 10)))))
      (local.set $number (i64.div_u (local.get $number) (i64.const 10)))
      (br_if $next (i64.ne (local.get $number) (i64.const 0))))
    (local.get $at))

  (func (export "proxy_on_context_create") (param $context i32) (param $parent i32)
    (i32.store (call $slot (local.get $context)) (i32.const 0)))

  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))

  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $define_metric (i32.const 0) (i32.const 304) (i32.const 17) (i32.const 2048)))
    (global.set $counter (i32.load (i32.const 2048)))
    (drop (call $define_metric (i32.const 1) (i32.const 336) (i32.const 15) (i32.const 2048)))
    (global.set $gauge (i32.load (i32.const 2048)))
    (drop (call $define_metric (i32.const 2) (i32.const 352) (i32.const 19) (i32.const 2048)))
    (global.set $histogram (i32.load (i32.const 2048)))
    (i32.const 1))

  (func $change_headers
    (if (i32.eqz (call $header (i32.const 0) (i32.const 32) (i32.const 7)))
      (then (call $add (i32.const 0) (i32.const 48) (i32.const 6) (i32.load (i32.const 2048)) (i32.load (i32.const 2052)))))
    (call $add (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 80) (i32.const 3))
    (call $add (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 96) (i32.const 3))
    (call $set (i32.const 112) (i32.const 5) (i32.const 128) (i32.const 3))
    (drop (call $remove_header_map_value (i32.const 0) (i32.const 144) (i32.const 6))))

  (func $count
    (local $number i64) (local $at i32) (local $end i32)
    (loop $again
      (local.set $number (i64.const 0))
      (i32.store (i32.const 2056) (i32.const 0))
      (if (i32.eqz (call $get_shared_data (i32.const 256) (i32.const 5) (i32.const 2048) (i32.const 2052) (i32.const 2056)))
        (then
          (local.set $at (i32.load (i32.const 2048)))
          (local.set $end (i32.add (local.get $at) (i32.load (i32.const 2052))))
          (loop $digit
            (local.set $number
              (i64.add
                (i64.mul (local.get $number) (i64.const 10))
                (i64.extend_i32_u (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if $digit (i32.lt_u (local.get $at) (local.get $end))))))
      (local.set $at (call $digits (i64.add (local.get $number) (i64.const 1))))
      (br_if $again
        (call $set_shared_data (i32.const 256) (i32.const 5) (local.get $at) (i32.sub (i32.const 2112) (local.get $at)) (i32.load (i32.const 2056)))))
    (call $set (i32.const 272) (i32.const 9) (local.get $at) (i32.sub (i32.const 2112) (local.get $at))))

  (func $measure
    (local $at i32)
    (drop (call $increment_metric (global.get $counter) (i64.const 2)))
    (drop (call $record_metric (global.get $gauge) (i64.const 7)))
    (drop (call $record_metric (global.get $histogram) (i64.const 5)))
    (drop (call $get_metric (global.get $counter) (i32.const 2064)))
    (local.set $at (call $digits (i64.load (i32.const 2064))))
    (call $set (i32.const 288) (i32.const 8) (local.get $at) (i32.sub (i32.const 2112) (local.get $at))))

  (func (export "proxy_on_request_headers") (param $context i32) (param $fields i32) (param $end i32) (result i32)
    (call $begin)
    (if (call $header (i32.const 0) (i32.const 16) (i32.const 4)) (then (return (i32.const 0))))
    (i32.store (call $slot (local.get $context)) (i32.and (i32.load (i32.load (i32.const 2048))) (i32.const 0xffffff)))
    (if (call $wants (local.get $context) (i32.const 0x616568)) (; headers ;)
      (then
        (call $change_headers)))
    (if (call $wants (local.get $context) (i32.const 0x646f62)) (; body ;)
      (then
        (drop (call $remove_header_map_value (i32.const 0) (i32.const 160) (i32.const 14)))))
    (if (call $wants (local.get $context) (i32.const 0x706572)) (; reply ;)
      (then
        (drop (call $send_local_response (i32.const 403) (i32.const 176) (i32.const 7)
          (i32.const 192) (i32.const 27) (i32.const 608) (i32.const 24) (i32.const -1)))
        (return (i32.const 1))))
    (if (call $wants (local.get $context) (i32.const 0x6c6163)) (; call ;)
      (then
        (global.set $calling (local.get $context))
        (drop (call $http_call (i32.const 560) (i32.const 45) (i32.const 640) (i32.const 83)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 5000) (i32.const 2048)))
        (return (i32.const 1))))
    (if (call $wants (local.get $context) (i32.const 0x756f63)) (; count ;)
      (then
        (call $count)))
    (if (call $wants (local.get $context) (i32.const 0x74656d)) (; metrics ;)
      (then
        (call $measure)))
    (if (call $wants (local.get $context) (i32.const 0x636974)) (; tick ;)
      (then
        (global.set $waiting (local.get $context))
        (drop (call $set_tick_period_milliseconds (i32.const 20)))
        (return (i32.const 1))))
    (if (call $wants (local.get $context) (i32.const 0x6f7270)) (; property ;)
      (then
        (drop (call $get_property (i32.const 432) (i32.const 14) (i32.const 2048) (i32.const 2052)))
        (call $set (i32.const 416) (i32.const 10) (i32.load (i32.const 2048)) (i32.load (i32.const 2052)))))
    (if (call $wants (local.get $context) (i32.const 0x676f6c)) (; log ;)
      (then
        (drop (call $log (i32.const 2) (i32.const 448) (i32.const 27)))))
    (i32.const 0))

  ;; Small letters become capitals.
  (func $raise (param $at i32) (param $length i32)
    (local $letter i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $length)))
        (local.set $letter (i32.load8_u (local.get $at)))
        (if (i32.lt_u (i32.sub (local.get $letter) (i32.const 97)) (i32.const 26))
          (then (i32.store8 (local.get $at) (i32.sub (local.get $letter) (i32.const 32)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $length (i32.sub (local.get $length) (i32.const 1)))
        (br $next))))

  (func (export "proxy_on_request_body") (param $context i32) (param $size i32) (param $end i32) (result i32)
    (call $begin)
    (if (i32.eqz (call $wants (local.get $context) (i32.const 0x646f62))) (then (return (i32.const 0))))
    (if (i32.eqz (local.get $end)) (then (return (i32.const 1))))
    (if (i32.eqz (local.get $size)) (then (return (i32.const 0))))
    (drop (call $get_buffer_bytes (i32.const 0) (i32.const 0) (local.get $size) (i32.const 2048) (i32.const 2052)))
    (call $raise (i32.load (i32.const 2048)) (i32.load (i32.const 2052)))
    (drop (call $set_buffer_bytes (i32.const 0) (i32.const 0) (local.get $size) (i32.load (i32.const 2048)) (i32.load (i32.const 2052))))
    (i32.const 0))

  (func (export "proxy_on_response_headers") (param $context i32) (param $fields i32) (param $end i32) (result i32)
    (call $add (i32.const 2) (i32.const 480) (i32.const 8) (i32.const 496) (i32.const 16))
    (if (call $wants (local.get $context) (i32.const 0x616568)) (; headers ;)
      (then (drop (call $remove_header_map_value (i32.const 2) (i32.const 144) (i32.const 6)))))
    (if (call $wants (local.get $context) (i32.const 0x646f62)) (; body ;)
      (then (drop (call $remove_header_map_value (i32.const 2) (i32.const 160) (i32.const 14)))))
    (i32.const 0))

  (func (export "proxy_on_response_body") (param $context i32) (param $size i32) (param $end i32) (result i32)
    (if (i32.eqz (call $wants (local.get $context) (i32.const 0x646f62))) (then (return (i32.const 0))))
    (if (i32.eqz (local.get $end)) (then (return (i32.const 1))))
    (drop (call $set_buffer_bytes (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 512) (i32.const 1)))
    (drop (call $set_buffer_bytes (i32.const 1) (i32.add (local.get $size) (i32.const 1)) (i32.const 0) (i32.const 528) (i32.const 1)))
    (i32.const 0))

  ;; Status, a space and the body stand behind each other as the host allocates them: the status is asked for last, and
  ;; copied before the body.
  (func (export "proxy_on_http_call_response")
    (param $root i32) (param $token i32) (param $headers i32) (param $size i32) (param $trailers i32)
    (local $at i32)
    (global.set $heap (i32.const 65540))
    (i32.store (i32.const 2052) (i32.const 0))
    (drop (call $get_buffer_bytes (i32.const 4) (i32.const 0) (local.get $size) (i32.const 2048) (i32.const 2052)))
    (local.set $size (i32.load (i32.const 2052)))
    (if (call $header (i32.const 6) (i32.const 544) (i32.const 7)) (then (return)))
    (local.set $at (i32.load (i32.const 2048)))
    (i32.store (i32.const 65536) (i32.load (local.get $at)))
    (i32.store8 (i32.const 65539) (i32.const 32))
    (if (i32.eqz (call $set_effective_context (global.get $calling)))
      (then
        (call $set (i32.const 224) (i32.const 8) (i32.const 65536) (i32.add (local.get $size) (i32.const 4)))
        (drop (call $continue_stream (i32.const 0))))))

  (func (export "proxy_on_tick") (param $root i32)
    (if (i32.eqz (call $set_effective_context (global.get $waiting)))
      (then
        (call $set (i32.const 384) (i32.const 8) (i32.const 400) (i32.const 3))
        (drop (call $continue_stream (i32.const 0)))))
    (drop (call $set_tick_period_milliseconds (i32.const 0))))
)
