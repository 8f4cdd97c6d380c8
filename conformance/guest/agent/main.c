/* Entry: one program is process 1, the agent, udhcpc's event script and the kernel's /sbin/poweroff, told by its name. */
#include "agent.h"
#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <sys/stat.h>

int agent_main(void);

/* Ctrl-Alt-Del, and what Xen or Hyper-V ask of the kernel: to a guest they are what the power button is on a PC. */
static void *wait_signals(void *set) {
    int signal;
    while (!sigwait(set, &signal))
        if (!acpi_ignored())
            power_request(signal == SIGINT ? POWER_REBOOT : POWER_OFF);
    return NULL;
}

static void open_console(const char *path) {
    if (!access(path, F_OK))
        start_thread(serial_server, (void *)path);
}

/* The agent proper. Answers as early as it can: whatever may wait (DHCP, a slow disk) has its own thread or process. */
int agent_main(void) {
    static sigset_t orders;
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&orders);
    sigaddset(&orders, SIGINT);
    sigaddset(&orders, SIGTERM);
    sigprocmask(SIG_BLOCK, &orders, NULL);
    write_text("/proc/self/oom_score_adj", "-1000");
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; null >= 0 && fd < 3; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
    open_console("/dev/ttyS0");
    open_console("/dev/hvc0");
    start_thread(tcp_server, NULL);
    start_thread(uevent_loop, NULL); /* before the modules, whose devices it brings into use */
    start_thread(echo_server, NULL);
    start_thread(stream_server, NULL);
    load_modules_for_this_machine(); /* on Xen this waits for every device, and the first NIC is up long before */
    start_thread(wait_signals, &orders);
    for (;;)
        pause();
}

int main(int count, char **arguments) {
    char *name = basename(arguments[0]);
    if (!strcmp(name, "dhcp-event"))
        return dhcp_event_main(count > 1 ? arguments[1] : "");
    if (!strcmp(name, "poweroff")) /* the kernel's orderly_poweroff(): Xen's and Hyper-V's shutdown requests */
        return kill(1, SIGTERM);
    if (!strcmp(name, "reboot"))
        return kill(1, SIGINT);
    if (getpid() == 1)
        return init_main();
    fprintf(stderr, "hvconform test guest agent %s: runs as process 1 of a test guest\n", AGENT_VERSION);
    return 2;
}
