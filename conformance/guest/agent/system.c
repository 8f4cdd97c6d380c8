/* What the guest is: identity, CPUs, memory, clocks, the kernel's complaints; and a line on every console. */
#include "agent.h"
#include <ctype.h>

void smbios_uuid(char *into, size_t size) {
    /* a Xen PV guest has no SMBIOS; the hypervisor's own id is the same UUID there */
    if (!read_text("/sys/class/dmi/id/product_uuid", into, size))
        read_text("/sys/hypervisor/uuid", into, size);
    for (char *c = into; *c; c++)
        *c = (char)tolower((unsigned char)*c);
}

/* syslinux passes BOOT_IMAGE=; a kernel that the hypervisor loads itself comes without it. */
static const char *firmware(void) {
    char cmdline[2048];
    if (!access("/sys/firmware/efi", F_OK))
        return "uefi";
    read_text("/proc/cmdline", cmdline, sizeof cmdline);
    return strstr(cmdline, "BOOT_IMAGE=") ? "bios" : "direct";
}

int verb_identity(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    char text[256];
    smbios_uuid(text, sizeof text);
    put(out, "{\"smbios_uuid\":");
    put_string(out, text);
    state_image_id(text, sizeof text);
    put(out, ",\"image_id\":");
    put_string(out, text);
    put(out, ",\"firmware\":\"%s\",\"agent_version\":\"%s\"}", firmware(), AGENT_VERSION);
    return 0;
}

/* The first /proc/cpuinfo line with this key, without the key. */
static void cpuinfo(const char *key, char *into, size_t size) {
    char *line = NULL;
    size_t capacity = 0;
    into[0] = 0;
    FILE *file = fopen("/proc/cpuinfo", "re");
    while (file && getline(&line, &capacity, file) > 0) {
        char *colon = strchr(line, ':');
        if (!colon || strncmp(line, key, strlen(key)) || !strchr("\t :", line[strlen(key)]))
            continue;
        snprintf(into, size, "%s", colon[1] == ' ' ? colon + 2 : colon + 1);
        into[strcspn(into, "\n")] = 0;
        break;
    }
    free(line);
    if (file)
        fclose(file);
}

int verb_cpus(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    char text[4096], hex[65];
    struct sha256 hash;
    cpuinfo("flags", text, sizeof text);
    sha256_start(&hash);
    sha256_add(&hash, text, strlen(text));
    sha256_hex(&hash, hex);
    cpuinfo("model name", text, sizeof text);
    put(out, "{\"online\":%ld,\"flags_sha256\":\"%s\",\"model\":", sysconf(_SC_NPROCESSORS_ONLN), hex);
    put_string(out, text);
    put(out, "}");
    return 0;
}

int verb_memory(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    char text[4096];
    unsigned long long total = 0, available = 0;
    read_text("/proc/meminfo", text, sizeof text);
    const char *at = strstr(text, "MemTotal:");
    if (at)
        sscanf(at, "MemTotal: %llu", &total);
    at = strstr(text, "MemAvailable:");
    if (at)
        sscanf(at, "MemAvailable: %llu", &available);
    put(out, "{\"total_kib\":%llu,\"available_kib\":%llu}", total, available);
    return 0;
}

int verb_clocks(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    int64_t monotonic = now_ns(CLOCK_MONOTONIC), realtime = now_ns(CLOCK_REALTIME), boottime = now_ns(CLOCK_BOOTTIME);
    put(out, "{\"monotonic_ns\":%lld,\"realtime_ns\":%lld,\"boottime_ns\":%lld}", (long long)monotonic, (long long)realtime, (long long)boottime);
    return 0;
}

static bool is_problem(const char *line) {
    static const char *const signs[] = {
        "Kernel panic", "BUG:", "Oops", "Call Trace", "soft lockup", "hard LOCKUP", "blocked for more than", "I/O error", "WARNING:",
        "Out of memory", "detected stall", "self-detected stall", "general protection fault", "Machine check", "NETDEV WATCHDOG",
        "segfault at", "hvconform: BUG", "Buffer I/O", "critical medium error", "critical target error", "unable to handle",
    };
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (strstr(line, signs[i]))
            return true;
    return false;
}

int verb_kernel_problems(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    char record[8192];
    int lines = 0;
    int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return fail(out, "/dev/kmsg: %s", strerror(errno));
    put(out, "{\"lines\":[");
    while (lines < 200) {
        ssize_t got = read(fd, record, sizeof record - 1);
        if (got < 0 && (errno == EPIPE || errno == EINTR))
            continue; /* the ring overtook the reader */
        if (got <= 0)
            break;
        record[got] = 0;
        char *text = strchr(record, ';');
        if (!text || !is_problem(text))
            continue;
        text[strcspn(text, "\n")] = 0;
        text[200] = 0;
        put(out, lines++ ? "," : "");
        put_string(out, text + 1);
    }
    close(fd);
    put(out, "]}");
    return 0;
}

int verb_print(int count, char **arguments, struct buf *out) {
    (void)count;
    char name[64], path[80], line[1024];
    FILE *consoles = fopen("/proc/consoles", "re");
    int written = 0;
    snprintf(line, sizeof line, "%s\r\n", arguments[0]);
    while (consoles && fscanf(consoles, "%63s%*[^\n]", name) == 1) {
        snprintf(path, sizeof path, "/dev/%s", name);
        int fd = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
        if (fd < 0)
            continue;
        written += write_all(fd, line, strlen(line));
        close(fd);
    }
    if (consoles)
        fclose(consoles);
    if (!written)
        return fail(out, "no console can be written");
    put(out, "{}");
    return 0;
}
