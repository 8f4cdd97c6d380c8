/* The clock of a guest without an RTC, which its kernel sets once and then lets fall behind until it has a clocksource. */
#include "agent.h"
#include <sys/mount.h>

#define SCHED "/sys/kernel/debug/sched/debug" /* both clocks in one look */

/* A clock in what the scheduler shows, as "ktime : 7087.193012" in ms; negative when it shows none. */
static double shown_ms(const char *text, const char *clock) {
    double ms;
    const char *line = strstr(text, clock), *colon = line ? strchr(line, ':') : NULL;
    return colon && sscanf(colon, ": %lf", &ms) == 1 ? ms : -1;
}

/* Linux takes the wall clock from the hypervisor when it begins to count time (timekeeping_init). Until it chooses a
   clocksource (clocksource_done_booting) it counts ticks, and none that come while interrupts are off or the machine waits
   for a processor: seconds, on a slow host. A kernel with an RTC sets the clock by that afterwards. For one without, this
   makes up for what was lost, which is what the kernel's count is behind the hypervisor's clock that it schedules by: both
   were the same to begin with. */
void clock_catch_up(void) {
    char text[1024];
    if (!access("/sys/class/rtc/rtc0", F_OK))
        return;
    mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
    read_text(SCHED, text, sizeof text);
    umount("/sys/kernel/debug");
    double counted = shown_ms(text, "\nktime"), passed = shown_ms(text, "\nsched_clk");
    if (counted < 0 || passed <= counted)
        return;
    int64_t right = now_ns(CLOCK_REALTIME) + (int64_t)((passed - counted) * 1000000);
    struct timespec time = {right / 1000000000, right % 1000000000};
    if (clock_settime(CLOCK_REALTIME, &time))
        log_line("the clock cannot be set: %s", strerror(errno));
}
