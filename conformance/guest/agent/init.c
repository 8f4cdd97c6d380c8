/* Process 1: mounts, starts the agent and starts it again should it ever die. */
#include "agent.h"
#include <signal.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>

int agent_main(void);

static void mount_kernel_files(void) {
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
}

static void tune(void) {
    /* fe80:: must be usable at once, and must be the address an observer derives from the MAC: no DAD, EUI-64 */
    write_text("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
    write_text("/proc/sys/net/ipv6/conf/default/dad_transmits", "0");
    write_text("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "0");
    write_text("/proc/sys/net/ipv6/conf/default/use_tempaddr", "0");
    write_text("/proc/sys/net/ipv6/conf/default/router_solicitation_delay", "0");
    /* a NIC answers for its own addresses only, or a test of isolation between networks would see another NIC's */
    write_text("/proc/sys/net/ipv4/conf/all/arp_ignore", "1");
    write_text("/proc/sys/net/ipv4/conf/all/arp_announce", "2");
    write_text("/proc/sys/kernel/panic", "0");
    write_text("/proc/sys/kernel/hung_task_timeout_secs", "30");
}

/* Runs as the agent and never returns. */
static pid_t start_agent(const sigset_t *usual) {
    pid_t child = fork();
    if (!child) {
        sigprocmask(SIG_SETMASK, usual, NULL);
        setsid();
        _exit(agent_main());
    }
    return child;
}

int init_main(void) {
    mount_kernel_files();
    tune();
    clock_catch_up();
    reboot(RB_DISABLE_CAD); /* Ctrl-Alt-Del comes as SIGINT */

    sigset_t wanted, usual;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGCHLD);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGTERM);
    sigprocmask(SIG_BLOCK, &wanted, &usual);
    pid_t agent = start_agent(&usual);
    for (;;) {
        int signal = sigwaitinfo(&wanted, NULL), status;
        if ((signal == SIGINT || signal == SIGTERM) && agent > 0)
            kill(agent, signal);
        for (pid_t ended; (ended = waitpid(-1, &status, WNOHANG)) > 0;) {
            if (ended != agent)
                continue;
            log_line("BUG: the agent ended with status 0x%x and is started again", status);
            sleep_ms(200);
            agent = start_agent(&usual);
        }
        if (agent < 0) {
            sleep_ms(200);
            agent = start_agent(&usual);
        }
    }
}
