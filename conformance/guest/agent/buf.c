/* A growing text buffer, JSON output, and a reader for the small JSON objects of the QEMU guest agent protocol. */
#include "agent.h"
#include <ctype.h>
#include <stdarg.h>

static void grow(struct buf *out, size_t more) {
    if (out->length + more + 1 <= out->capacity)
        return;
    size_t wanted = (out->length + more + 1) * 2;
    char *larger = realloc(out->text, wanted);
    if (!larger)
        abort(); /* process 1 starts the agent again */
    out->text = larger;
    out->capacity = wanted;
}

static void put_list(struct buf *out, const char *format, va_list list) {
    va_list again;
    va_copy(again, list);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (length < 0)
        return;
    grow(out, (size_t)length);
    vsnprintf(out->text + out->length, (size_t)length + 1, format, list);
    out->length += (size_t)length;
}

void put(struct buf *out, const char *format, ...) {
    va_list list;
    va_start(list, format);
    put_list(out, format, list);
    va_end(list);
}

/* A JSON string. Bytes outside ASCII are escaped one by one, so that hostile text cannot make the reply invalid. */
void put_string(struct buf *out, const char *text) {
    put(out, "\"");
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            put(out, "\\%c", *c);
        else if (*c < 0x20 || *c >= 0x7f)
            put(out, "\\u%04x", *c);
        else
            put(out, "%c", *c);
    }
    put(out, "\"");
}

void clear(struct buf *out) {
    grow(out, 1);
    out->length = 0;
    out->text[0] = 0;
}

void release(struct buf *out) {
    free(out->text);
    *out = (struct buf){0};
}

/* Replaces the buffer by an error text; returns -1. */
int fail(struct buf *out, const char *format, ...) {
    clear(out);
    va_list list;
    va_start(list, format);
    put_list(out, format, list);
    va_end(list);
    return -1;
}

static const char *blank(const char *at) {
    while (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n')
        at++;
    return at;
}

static const char *skip_string(const char *at) {
    for (at++; *at && *at != '"'; at++)
        if (*at == '\\' && !*++at)
            return NULL;
    return *at ? at + 1 : NULL;
}

/* The end of the value at `at`, or NULL. Depth is bounded: a deep value must not exhaust a small stack. */
static const char *skip_value(const char *at, int depth) {
    at = blank(at);
    if (depth > 16)
        return NULL;
    if (*at == '"')
        return skip_string(at);
    if (*at != '{' && *at != '[') {
        const char *start = at;
        while (isalnum((unsigned char)*at) || *at == '-' || *at == '+' || *at == '.')
            at++;
        return at == start ? NULL : at;
    }
    char closing = *at == '{' ? '}' : ']';
    at = blank(at + 1);
    if (*at == closing)
        return at + 1;
    for (;;) {
        if (closing == '}') {
            if (*at != '"' || !(at = skip_string(at)))
                return NULL;
            at = blank(at);
            if (*at++ != ':')
                return NULL;
        }
        if (!(at = skip_value(at, depth + 1)))
            return NULL;
        at = blank(at);
        if (*at == closing)
            return at + 1;
        if (*at++ != ',')
            return NULL;
        at = blank(at);
    }
}

bool json_is_valid(const char *text) {
    const char *end = skip_value(text, 0);
    return end && !*blank(end);
}

/* Where the member's value begins in a valid object, or NULL. */
const char *json_member(const char *object, const char *key) {
    const char *at = object ? blank(object) : "";
    if (*at != '{')
        return NULL;
    at = blank(at + 1);
    while (*at == '"') {
        const char *end = skip_string(at);
        if (!end)
            return NULL;
        bool found = (size_t)(end - at) == strlen(key) + 2 && !strncmp(at + 1, key, strlen(key));
        at = blank(blank(end) + 1);
        if (found)
            return at;
        if (!(at = skip_value(at, 1)))
            return NULL;
        at = blank(at);
        if (*at == ',')
            at = blank(at + 1);
    }
    return NULL;
}

/* The value as text: a string without its quotes (no escapes wanted here), or a number or word as written. */
bool json_text(const char *value, char *into, size_t size) {
    const char *end = value ? skip_value(value, 0) : NULL;
    if (!end || *value == '{' || *value == '[')
        return false;
    if (*value == '"') {
        value++;
        end--;
    }
    if ((size_t)(end - value) >= size)
        return false;
    memcpy(into, value, (size_t)(end - value));
    into[end - value] = 0;
    return true;
}
