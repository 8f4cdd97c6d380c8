/* One request line in, one line of JSON out. */
#include "agent.h"

#define MOST_ARGUMENTS 8

static const struct {
    const char *name;
    int arguments;
    verb_function *run;
} verbs[] = {
    {"boot", 0, verb_boot},
    {"identity", 0, verb_identity},
    {"cpus", 0, verb_cpus},
    {"memory", 0, verb_memory},
    {"disks", 0, verb_disks},
    {"nics", 0, verb_nics},
    {"resolver", 0, verb_resolver},
    {"clocks", 0, verb_clocks},
    {"kernel-problems", 0, verb_kernel_problems},
    {"disk-write", 4, verb_disk_write},
    {"disk-hash", 3, verb_disk_hash},
    {"writer-start", 4, verb_writer_start},
    {"writer-status", 0, verb_writer_status},
    {"writer-stop", 0, verb_writer_stop},
    {"writer-read", 3, verb_writer_read},
    {"ram-put", 2, verb_ram_put},
    {"ram-get", 1, verb_ram_get},
    {"ram-fill", 2, verb_ram_fill},
    {"ram-verify", 1, verb_ram_verify},
    {"ram-dirty", 1, verb_ram_dirty},
    {"reboot", 0, verb_reboot},
    {"poweroff", 0, verb_poweroff},
    {"panic", 0, verb_panic},
    {"hang", 0, verb_hang},
    {"ignore-acpi", 1, verb_ignore_acpi},
    {"beat-start", 3, verb_beat_start},
    {"beat-stop", 0, verb_beat_stop},
    {"echo", 3, verb_echo},
    {"send-frame", 2, verb_send_frame},
    {"foreign-unicast", 2, verb_foreign_unicast},
    {"renew", 1, verb_renew},
    {"print", 1, verb_print},
};

static int run(char *line, struct buf *data) {
    char *arguments[MOST_ARGUMENTS], *rest = NULL;
    int count = 0;
    char *name = strtok_r(line, " \t\r", &rest);
    if (!name)
        return fail(data, "an empty request");
    for (char *word; (word = strtok_r(NULL, " \t\r", &rest));) {
        if (count == MOST_ARGUMENTS)
            return fail(data, "more than %d arguments", MOST_ARGUMENTS);
        arguments[count++] = word;
    }
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(verbs[i].name, name))
            continue;
        if (count != verbs[i].arguments)
            return fail(data, "%s takes %d arguments, not %d", name, verbs[i].arguments, count);
        return verbs[i].run(count, arguments, data);
    }
    return fail(data, "no such verb: %.64s", name);
}

/* Answers one request; `line` is changed. The reply has no newline and is at most LINE_MAX_BYTES long. */
void answer(char *line, struct buf *reply) {
    struct buf data = {0};
    clear(&data);
    clear(reply);
    int result = run(line, &data);
    if (!result && data.length > LINE_MAX_BYTES - 64)
        result = fail(&data, "the answer is too long");
    if (!result) {
        put(reply, "{\"ok\":true,\"data\":%s}", data.text);
    } else {
        put(reply, "{\"ok\":false,\"error\":");
        put_string(reply, data.text);
        put(reply, "}");
    }
    release(&data);
}
