/* Power: orderly reboot and power-off, the power button, and the ways to go wrong on request. */
#include "agent.h"
#include <linux/input.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool ignoring, going;

bool acpi_ignored(void) {
    pthread_mutex_lock(&lock);
    bool ignored = ignoring;
    pthread_mutex_unlock(&lock);
    return ignored;
}

static void *go_down(void *action) {
    sleep_ms(50); /* the reply to the request leaves first */
    writer_thaw();
    writer_quiesce();
    state_mark_clean();
    sync();
    reboot((enum power)(intptr_t)action == POWER_REBOOT ? RB_AUTOBOOT : (intptr_t)action == POWER_HALT ? RB_HALT_SYSTEM : RB_POWER_OFF);
    return NULL;
}

void power_request(enum power action) {
    pthread_mutex_lock(&lock);
    bool first = !going;
    going = true;
    pthread_mutex_unlock(&lock);
    if (first && !try_thread(go_down, (void *)(intptr_t)action))
        go_down((void *)(intptr_t)action);
}

int verb_reboot(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    power_request(POWER_REBOOT);
    put(out, "{}");
    return 0;
}

int verb_poweroff(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    power_request(POWER_OFF);
    put(out, "{}");
    return 0;
}

int verb_panic(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    write_text("/proc/sysrq-trigger", "c");
    return fail(out, "the kernel did not panic");
}

/* Stops the whole agent as it is, threads and all; process 1 does not mind, and the kernel lives on. Another thread may
 * take the signal, and this one must not get as far as a reply before it is stopped too. */
int verb_hang(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments, (void)out;
    kill(getpid(), SIGSTOP);
    for (;;)
        pause();
}

int verb_ignore_acpi(int count, char **arguments, struct buf *out) {
    (void)count;
    if (strcmp(arguments[0], "0") && strcmp(arguments[0], "1"))
        return fail(out, "0 or 1");
    pthread_mutex_lock(&lock);
    ignoring = arguments[0][0] == '1';
    pthread_mutex_unlock(&lock);
    put(out, "{}");
    return 0;
}

static bool watched[256];

static void *button(void *number) {
    char path[64];
    struct input_event read_event;
    intptr_t which = (intptr_t)number;
    snprintf(path, sizeof path, "/dev/input/event%d", (int)which);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (read_all(fd, &read_event, sizeof read_event))
        if (read_event.type == EV_KEY && read_event.code == KEY_POWER && read_event.value == 1 && !acpi_ignored())
            power_request(POWER_OFF);
    if (fd >= 0)
        close(fd);
    __atomic_store_n(&watched[which], false, __ATOMIC_SEQ_CST);
    return NULL;
}

/* Watches an input device (such as "event0") if it has a power key and is not watched yet. */
void watch_button(const char *event) {
    char path[300];
    unsigned char keys[KEY_MAX / 8 + 1] = {0};
    unsigned number;
    if (sscanf(event, "event%u", &number) != 1 || number >= sizeof watched)
        return;
    snprintf(path, sizeof path, "/dev/input/%s", event);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool has_power = fd >= 0 && ioctl(fd, EVIOCGBIT(EV_KEY, sizeof keys), keys) >= 0 && keys[KEY_POWER / 8] >> KEY_POWER % 8 & 1;
    if (fd >= 0)
        close(fd);
    if (!has_power || __atomic_exchange_n(&watched[number], true, __ATOMIC_SEQ_CST))
        return;
    if (!try_thread(button, (void *)(intptr_t)number))
        watched[number] = false;
}
