/* NICs come and go: up at once, DHCP by busybox's udhcpc in the background, its events applied here without a shell. */
#include "agent.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#define MOST_NICS 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char name[IFNAMSIZ];
    pid_t client;
} nics[MOST_NICS];

static bool set_up(int fd, const char *name) {
    /* The uevent of a NIC is sent before the kernel lists it, so on another CPU a look-up of its flags may fail. Setting
     * them without asking first takes the lock that its registration holds, and so comes after it. */
    struct ifreq request = {.ifr_flags = IFF_UP | IFF_MULTICAST};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    return !ioctl(fd, SIOCSIFFLAGS, &request);
}

static pid_t start_client(const char *name) {
    char uuid[64], hostname[64];
    smbios_uuid(uuid, sizeof uuid);
    snprintf(hostname, sizeof hostname, "hostname:hvc-%.8s", uuid);
    pid_t child = fork();
    if (child)
        return child;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    execl("/bin/busybox", "udhcpc", "-f", "-i", name, "-s", "/bin/dhcp-event", "-t", "3", "-T", "1", "-A", "1", "-O", "mtu", "-x", hostname, NULL);
    _exit(127);
}

void nic_added(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "/sys/class/net/%s/device", name);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool up = fd >= 0 && set_up(fd, name);
    if (!up)
        log_line("%s cannot be brought up: %s", name, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (!up || access(path, F_OK))
        return;
    pthread_mutex_lock(&lock);
    int place = -1;
    for (int i = 0; i < MOST_NICS; i++) {
        if (!strcmp(nics[i].name, name))
            place = -2;
        else if (place == -1 && !nics[i].name[0])
            place = i;
    }
    if (place >= 0) {
        snprintf(nics[place].name, sizeof nics[place].name, "%s", name);
        nics[place].client = start_client(name);
    }
    pthread_mutex_unlock(&lock);
}

void nic_removed(const char *name) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST_NICS; i++) {
        if (strcmp(nics[i].name, name))
            continue;
        if (nics[i].client > 0) {
            kill(nics[i].client, SIGTERM);
            waitpid(nics[i].client, NULL, 0);
        }
        nics[i].name[0] = 0;
    }
    pthread_mutex_unlock(&lock);
}

/* Releases the lease and asks again from scratch. */
bool dhcp_restart(const char *name) {
    bool found = false;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST_NICS; i++) {
        if (strcmp(nics[i].name, name) || nics[i].client <= 0)
            continue;
        kill(nics[i].client, SIGUSR2); /* udhcpc: release */
        sleep_ms(200);                 /* signals are not queued: the release must be seen before the renewal */
        found = !kill(nics[i].client, SIGUSR1);
    }
    pthread_mutex_unlock(&lock);
    return found;
}

int verb_renew(int count, char **arguments, struct buf *out) {
    (void)count;
    char name[IFNAMSIZ];
    if (!nic_by_mac(arguments[0], name, sizeof name))
        return fail(out, "no NIC has the MAC %.32s", arguments[0]);
    if (!dhcp_restart(name))
        return fail(out, "no DHCP client runs on %s", name);
    put(out, "{}");
    return 0;
}

/* the event side: runs as its own short process, started by udhcpc */

static const char *told(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static bool parse_address(const char *text, struct sockaddr *into) {
    struct sockaddr_in *address = (void *)into;
    *address = (struct sockaddr_in){.sin_family = AF_INET};
    return inet_pton(AF_INET, text, &address->sin_addr) == 1;
}

static void set_default_route(int fd, const char *nic, const char *routers) {
    char first[64];
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY, .rt_dev = (char *)nic, .rt_metric = (short)(if_nametoindex(nic) + 1)};
    snprintf(first, sizeof first, "%.*s", (int)strcspn(routers, " "), routers);
    parse_address("0.0.0.0", &route.rt_dst);
    parse_address("0.0.0.0", &route.rt_genmask);
    if (!parse_address(first, &route.rt_gateway))
        return;
    if (ioctl(fd, SIOCADDRT, &route) && errno != EEXIST)
        log_line("%s: default route by %s: %s", nic, first, strerror(errno));
}

static void write_resolv(const char *servers) {
    char text[1024] = "", copy[512], *rest;
    size_t length = 0;
    snprintf(copy, sizeof copy, "%s", servers);
    for (char *server = strtok_r(copy, " ", &rest); server && length < sizeof text - 64; server = strtok_r(NULL, " ", &rest))
        length += (size_t)snprintf(text + length, sizeof text - length, "nameserver %.50s\n", server);
    int fd = open("/etc/resolv.conf.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return;
    bool written = write_all(fd, text, length);
    close(fd);
    if (written)
        rename("/etc/resolv.conf.new", "/etc/resolv.conf");
}

static void forget_address(int fd, const char *nic) {
    struct ifreq request = {0};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", nic);
    parse_address("0.0.0.0", &request.ifr_addr);
    if (!ioctl(fd, SIOCSIFADDR, &request))
        set_up(fd, nic); /* removing the last address takes no NIC down here, but older kernels do */
}

static void use_lease(int fd, const char *nic) {
    struct ifreq request = {0}, now = {0};
    struct sockaddr_in *address = (void *)&request.ifr_addr, *has = (void *)&now.ifr_addr;
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", nic);
    memcpy(now.ifr_name, request.ifr_name, sizeof now.ifr_name);
    if (!parse_address(told("ip"), &request.ifr_addr))
        return;
    /* a renewal of the same address must not take it away for a moment: connections live on it */
    if (ioctl(fd, SIOCGIFADDR, &now) || has->sin_addr.s_addr != address->sin_addr.s_addr) {
        if (ioctl(fd, SIOCSIFADDR, &request))
            log_line("%s: address %s: %s", nic, told("ip"), strerror(errno));
        if (parse_address(told("subnet"), &request.ifr_netmask) && ioctl(fd, SIOCSIFNETMASK, &request))
            log_line("%s: netmask %s: %s", nic, told("subnet"), strerror(errno));
    }
    uint64_t mtu;
    if (parse_number(told("mtu"), 65535, &mtu) && mtu >= 68) {
        request.ifr_mtu = (int)mtu;
        ioctl(fd, SIOCSIFMTU, &request);
    }
    set_default_route(fd, nic, told("router"));
    write_resolv(told("dns"));
    if (told("hostname")[0] && sethostname(told("hostname"), strlen(told("hostname"))))
        log_line("hostname: %s", strerror(errno));
}

int dhcp_event_main(const char *event) {
    const char *nic = told("interface");
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || !nic[0])
        return 1;
    if (!strcmp(event, "bound") || !strcmp(event, "renew"))
        use_lease(fd, nic);
    else if (!strcmp(event, "deconfig"))
        forget_address(fd, nic);
    return 0;
}
