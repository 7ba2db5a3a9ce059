// The plugin of ../README.md in C, on the bare ABI (0.2.1).

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANGUAGE "C"
#define HOST(name) __attribute__((import_module("env"), import_name(#name))) uint32_t name
#define EXPORT(name) __attribute__((export_name(#name))) name

HOST(proxy_log)(uint32_t level, const char *text, size_t length);
HOST(proxy_get_header_map_value)(uint32_t map, const char *name, size_t name_length, char **value, size_t *length);
HOST(proxy_add_header_map_value)(uint32_t map, const char *name, size_t name_length, const char *value, size_t length);
HOST(proxy_replace_header_map_value)(uint32_t map, const char *name, size_t name_length, const char *value, size_t length);
HOST(proxy_remove_header_map_value)(uint32_t map, const char *name, size_t name_length);
HOST(proxy_get_buffer_bytes)(uint32_t kind, size_t start, size_t most, char **bytes, size_t *length);
HOST(proxy_set_buffer_bytes)(uint32_t kind, size_t start, size_t size, const char *bytes, size_t length);
HOST(proxy_send_local_response)(uint32_t status, const char *details, size_t details_length, const char *body,
                                size_t body_length, const char *headers, size_t headers_length, int32_t grpc_status);
HOST(proxy_http_call)(const char *upstream, size_t upstream_length, const char *headers, size_t headers_length,
                      const char *body, size_t body_length, const char *trailers, size_t trailers_length,
                      uint32_t milliseconds, uint32_t *token);
HOST(proxy_get_shared_data)(const char *key, size_t key_length, char **value, size_t *length, uint32_t *cas);
HOST(proxy_set_shared_data)(const char *key, size_t key_length, const char *value, size_t length, uint32_t cas);
HOST(proxy_define_metric)(uint32_t kind, const char *name, size_t length, uint32_t *id);
HOST(proxy_increment_metric)(uint32_t id, int64_t delta);
HOST(proxy_record_metric)(uint32_t id, uint64_t value);
HOST(proxy_get_metric)(uint32_t id, uint64_t *value);
HOST(proxy_get_property)(const char *path, size_t path_length, char **value, size_t *length);
HOST(proxy_set_tick_period_milliseconds)(uint32_t period);
HOST(proxy_set_effective_context)(uint32_t context);
HOST(proxy_continue_stream)(uint32_t stream);

enum { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2, CALL_HEADERS = 6 };
enum { REQUEST_BODY = 0, RESPONSE_BODY = 1, CALL_BODY = 4 };
enum { CONTINUE = 0, PAUSE = 1 };

// A text and its length.
#define TEXT(text) text, strlen(text)

// What a stream wants, by its context. Enough for a test.
static struct stream {
    uint32_t context;
    char wish[16];
} streams[64];

static uint32_t counter, gauge, histogram, waiting, calling, token;

static struct stream *stream_of(uint32_t context) {
    return &streams[context % 64];
}

static bool wants(uint32_t context, const char *wish) {
    struct stream *stream = stream_of(context);
    return stream->context == context && strcmp(stream->wish, wish) == 0;
}

static void set(const char *name, const char *value) {
    proxy_replace_header_map_value(REQUEST_HEADERS, TEXT(name), TEXT(value));
}

// A number as text, in a place that the next call takes again.
static const char *digits(uint64_t number) {
    static char text[21];
    char *at = text + 20;
    do {
        *--at = '0' + number % 10;
        number /= 10;
    } while (number > 0);
    return at;
}

// Headers as the ABI writes them: NAME, VALUE, …, NULL.
static size_t pairs(char *into, const char **fields) {
    uint32_t count = 0;
    while (fields[2 * count]) {
        count++;
    }
    memcpy(into, &count, 4);
    char *end = into + 4 + 8 * count;
    for (uint32_t at = 0; at < 2 * count; at++) {
        uint32_t length = strlen(fields[at]);
        memcpy(into + 4 + 4 * at, &length, 4);
        memcpy(end, fields[at], length + 1);
        end += length + 1;
    }
    return end - into;
}

void EXPORT(proxy_abi_version_0_2_1)(void) {}

void *EXPORT(proxy_on_memory_allocate)(size_t size) {
    return malloc(size);
}

void EXPORT(proxy_on_context_create)(uint32_t context, uint32_t parent) {
    (void)parent;
    stream_of(context)->context = context;
    stream_of(context)->wish[0] = 0;
}

uint32_t EXPORT(proxy_on_vm_start)(uint32_t root, uint32_t size) {
    (void)root, (void)size;
    return 1;
}

uint32_t EXPORT(proxy_on_configure)(uint32_t root, uint32_t size) {
    (void)root, (void)size;
    proxy_define_metric(0, TEXT("lang_c_counter"), &counter);
    proxy_define_metric(1, TEXT("lang_c_gauge"), &gauge);
    proxy_define_metric(2, TEXT("lang_c_histogram"), &histogram);
    return 1;
}

static void change_headers(void) {
    char *bytes = NULL;
    size_t length = 0;
    if (proxy_get_header_map_value(REQUEST_HEADERS, TEXT("x-bytes"), &bytes, &length) == 0) {
        proxy_add_header_map_value(REQUEST_HEADERS, TEXT("x-copy"), bytes, length);
        free(bytes);
    }
    proxy_add_header_map_value(REQUEST_HEADERS, TEXT("x-add"), TEXT("one"));
    proxy_add_header_map_value(REQUEST_HEADERS, TEXT("x-add"), TEXT("two"));
    set("x-set", "set");
    proxy_remove_header_map_value(REQUEST_HEADERS, TEXT("x-gone"));
}

static void count(void) {
    for (int attempt = 0; attempt < 10; attempt++) {
        char *value = NULL;
        size_t length = 0;
        uint32_t cas = 0;
        uint64_t number = 0;
        if (proxy_get_shared_data(TEXT("count"), &value, &length, &cas) == 0 && value) {
            for (size_t at = 0; at < length; at++) {
                number = 10 * number + (value[at] - '0');
            }
            free(value);
        }
        const char *next = digits(number + 1);
        if (proxy_set_shared_data(TEXT("count"), TEXT(next), cas) == 0) {
            set("x-counted", next);
            return;
        }
    }
}

uint32_t EXPORT(proxy_on_request_headers)(uint32_t context, uint32_t fields, uint32_t end) {
    (void)fields, (void)end;
    char *wish = NULL, buffer[256];
    size_t length = 0;
    if (proxy_get_header_map_value(REQUEST_HEADERS, TEXT("x-do"), &wish, &length) != 0 || length > 15) {
        return CONTINUE;
    }
    memcpy(stream_of(context)->wish, wish, length);
    stream_of(context)->wish[length] = 0;
    free(wish);
    if (wants(context, "headers")) {
        change_headers();
    } else if (wants(context, "body")) {
        proxy_remove_header_map_value(REQUEST_HEADERS, TEXT("content-length"));
    } else if (wants(context, "reply")) {
        const char *headers[] = {"x-reply", "yes", NULL};
        size_t size = pairs(buffer, headers);
        proxy_send_local_response(403, TEXT("refused"), TEXT("refused in " LANGUAGE), buffer, size, -1);
        return PAUSE;
    } else if (wants(context, "call")) {
        const char *headers[] = {":method", "GET", ":path", "/asked", ":authority", "callee.example.dev", NULL};
        size_t size = pairs(buffer, headers);
        const char *callee = "outbound|80||callee.default.svc.cluster.local";
        if (proxy_http_call(TEXT(callee), buffer, size, NULL, 0, NULL, 0, 5000, &token) == 0) {
            calling = context;
            return PAUSE;
        }
        set("x-answer", "no call");
    } else if (wants(context, "count")) {
        count();
    } else if (wants(context, "metrics")) {
        uint64_t value = 0;
        proxy_increment_metric(counter, 2);
        proxy_record_metric(gauge, 7);
        proxy_record_metric(histogram, 5);
        proxy_get_metric(counter, &value);
        set("x-metric", digits(value));
    } else if (wants(context, "tick")) {
        waiting = context;
        proxy_set_tick_period_milliseconds(20);
        return PAUSE;
    } else if (wants(context, "property")) {
        char *method = NULL;
        if (proxy_get_property("request\0method", 14, &method, &length) == 0) {
            proxy_replace_header_map_value(REQUEST_HEADERS, TEXT("x-property"), method, length);
            free(method);
        }
    } else if (wants(context, "log")) {
        proxy_log(2, TEXT("hello from " LANGUAGE));
    }
    return CONTINUE;
}

uint32_t EXPORT(proxy_on_request_body)(uint32_t context, uint32_t size, uint32_t end) {
    if (!wants(context, "body")) {
        return CONTINUE;
    }
    char *body = NULL;
    size_t length = 0;
    if (!end) {
        return PAUSE;
    }
    if (proxy_get_buffer_bytes(REQUEST_BODY, 0, size, &body, &length) == 0 && body) {
        for (size_t at = 0; at < length; at++) {
            body[at] -= body[at] >= 'a' && body[at] <= 'z' ? 'a' - 'A' : 0;
        }
        proxy_set_buffer_bytes(REQUEST_BODY, 0, size, body, length);
        free(body);
    }
    return CONTINUE;
}

uint32_t EXPORT(proxy_on_response_headers)(uint32_t context, uint32_t fields, uint32_t end) {
    (void)fields, (void)end;
    proxy_add_header_map_value(RESPONSE_HEADERS, TEXT("x-plugin"), TEXT(LANGUAGE));
    if (wants(context, "headers")) {
        proxy_remove_header_map_value(RESPONSE_HEADERS, TEXT("x-gone"));
    } else if (wants(context, "body")) {
        proxy_remove_header_map_value(RESPONSE_HEADERS, TEXT("content-length"));
    }
    return CONTINUE;
}

uint32_t EXPORT(proxy_on_response_body)(uint32_t context, uint32_t size, uint32_t end) {
    if (!wants(context, "body")) {
        return CONTINUE;
    }
    if (!end) {
        return PAUSE;
    }
    proxy_set_buffer_bytes(RESPONSE_BODY, 0, 0, TEXT("["));
    proxy_set_buffer_bytes(RESPONSE_BODY, size + 1, 0, TEXT("]"));
    return CONTINUE;
}

void EXPORT(proxy_on_http_call_response)(uint32_t root, uint32_t answered, uint32_t headers, uint32_t body, uint32_t trailers) {
    (void)root, (void)headers, (void)trailers;
    char *status = NULL, *text = NULL, answer[128] = "";
    size_t length = 0, text_length = 0;
    if (answered != token) {
        return;
    }
    if (proxy_get_header_map_value(CALL_HEADERS, TEXT(":status"), &status, &length) == 0 && length < 8) {
        memcpy(answer, status, length);
        answer[length] = ' ';
        free(status);
    }
    if (proxy_get_buffer_bytes(CALL_BODY, 0, body, &text, &text_length) == 0 && text_length < 100) {
        memcpy(answer + length + 1, text, text_length);
        free(text);
    }
    if (proxy_set_effective_context(calling) == 0) {
        set("x-answer", answer);
        proxy_continue_stream(0);
    }
}

void EXPORT(proxy_on_tick)(uint32_t root) {
    (void)root;
    if (waiting != 0 && proxy_set_effective_context(waiting) == 0) {
        set("x-ticked", "yes");
        proxy_continue_stream(0);
    }
    waiting = 0;
    proxy_set_tick_period_milliseconds(0);
}
