/* Small helpers over the kernel's files, clocks and threads. */
#include "agent.h"
#include <ctype.h>
#include <dirent.h>
#include <stdarg.h>

int64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* A point on CLOCK_MONOTONIC. Never the wall clock: tests set it, and a restored guest's jumps. */
struct timespec deadline(int64_t milliseconds) {
    int64_t at = now_ns(CLOCK_MONOTONIC) + milliseconds * 1000000;
    return (struct timespec){at / 1000000000, at % 1000000000};
}

void sleep_ms(int64_t milliseconds) {
    struct timespec span = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&span, &span) && errno == EINTR)
        ;
}

/* The file's text without its trailing newline; false and an empty text when it cannot be read. */
bool read_text(const char *path, char *into, size_t size) {
    into[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t length = 0;
    ssize_t got;
    while (length < size - 1 && (got = read(fd, into + length, size - 1 - length)) > 0)
        length += (size_t)got;
    close(fd);
    while (length && (into[length - 1] == '\n' || into[length - 1] == ' '))
        length--;
    into[length] = 0;
    return true;
}

bool write_text(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool done = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return done;
}

bool parse_number(const char *text, uint64_t highest, uint64_t *number) {
    if (!isdigit((unsigned char)text[0]))
        return false;
    char *end;
    errno = 0;
    *number = strtoull(text, &end, 10);
    return !errno && !*end && *number <= highest;
}

bool write_all(int fd, const void *data, size_t length) {
    for (const char *at = data; length;) {
        ssize_t sent = write(fd, at, length);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return false;
        at += sent, length -= (size_t)sent;
    }
    return true;
}

bool read_all(int fd, void *data, size_t length) {
    for (char *at = data; length;) {
        ssize_t got = read(fd, at, length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        at += got, length -= (size_t)got;
    }
    return true;
}

bool try_thread(void *(*body)(void *), void *argument) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int error = pthread_create(&thread, &attributes, body, argument);
    pthread_attr_destroy(&attributes);
    return !error;
}

void start_thread(void *(*body)(void *), void *argument) {
    if (!try_thread(body, argument))
        log_line("cannot start a thread");
}

/* Calls `use` with every name in the folder that begins so. */
void for_each(const char *folder, const char *prefix, void (*use)(const char *name)) {
    DIR *open_folder = opendir(folder);
    for (struct dirent *entry; open_folder && (entry = readdir(open_folder));)
        if (!strncmp(entry->d_name, prefix, strlen(prefix)) && entry->d_name[0] != '.')
            use(entry->d_name);
    if (open_folder)
        closedir(open_folder);
}

static bool is_pci(const char *name) {
    unsigned domain, bus, slot, function;
    char rest;
    return sscanf(name, "%4x:%2x:%2x.%1x%c", &domain, &bus, &slot, &function, &rest) == 4;
}

/* The innermost PCI address on the device's path, else the name of the device on its own bus, such as vif-0. */
void bus_address(const char *sysfs_device, char *into, size_t size) {
    char path[4096], *part, *rest;
    into[0] = 0;
    if (!realpath(sysfs_device, path))
        return;
    snprintf(into, size, "%s", strrchr(path, '/') + 1);
    for (part = strtok_r(path, "/", &rest); part; part = strtok_r(NULL, "/", &rest))
        if (is_pci(part))
            snprintf(into, size, "%s", part);
}

const char *boot_id(void) {
    static char text[40];
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    void load(void) { read_text("/proc/sys/kernel/random/boot_id", text, sizeof text); }
    pthread_once(&once, load);
    return text;
}

/* A line in the kernel's log, as an error: the image's loglevel=4 leaves warnings off the console. */
void log_line(const char *format, ...) {
    char text[256];
    va_list list;
    va_start(list, format);
    int start = snprintf(text, sizeof text, "<3>hvconform: ");
    vsnprintf(text + start, sizeof text - (size_t)start, format, list);
    va_end(list);
    int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, text, strlen(text)) < 0)
            text[0] = 0; /* nobody is left to tell */
        close(fd);
    }
}
