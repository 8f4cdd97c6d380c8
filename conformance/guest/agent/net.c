/* What the network looks like from here: NICs, addresses, gateways, name servers. */
#include "agent.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

static bool nic_file(const char *nic, const char *file, char *into, size_t size) {
    char path[128];
    snprintf(path, sizeof path, "/sys/class/net/%s/%s", nic, file);
    return read_text(path, into, size);
}

/* A NIC is what has a device beneath it: not lo, not a tunnel's template. */
static int is_nic(const struct dirent *entry) {
    char path[300];
    snprintf(path, sizeof path, "/sys/class/net/%s/device", entry->d_name);
    return entry->d_name[0] != '.' && !access(path, F_OK);
}

bool nic_by_mac(const char *mac, char *name, size_t size) {
    struct dirent **entries;
    char has[32];
    bool found = false;
    int nics = scandir("/sys/class/net", &entries, is_nic, alphasort);
    if (nics < 0)
        return false;
    for (int i = 0; i < nics; i++) {
        if (!found && nic_file(entries[i]->d_name, "address", has, sizeof has) && !strcasecmp(has, mac)) {
            snprintf(name, size, "%s", entries[i]->d_name);
            found = true;
        }
        free(entries[i]);
    }
    free(entries);
    return found;
}

static int count_queues(const char *nic) {
    char path[128];
    int queues = 0;
    snprintf(path, sizeof path, "/sys/class/net/%s/queues", nic);
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        queues += !strncmp(entry->d_name, "rx-", 3);
    if (folder)
        closedir(folder);
    return queues;
}

static int prefix_of(const struct sockaddr *mask) {
    const uint8_t *bytes = mask->sa_family == AF_INET ? (void *)&((struct sockaddr_in *)mask)->sin_addr : (void *)&((struct sockaddr_in6 *)mask)->sin6_addr;
    int prefix = 0;
    for (size_t i = 0; i < (mask->sa_family == AF_INET ? 4 : 16); i++)
        prefix += __builtin_popcount(bytes[i]);
    return prefix;
}

static void put_addresses(struct buf *out, const struct ifaddrs *all, const char *nic, bool as_qga) {
    char text[INET6_ADDRSTRLEN];
    const char *comma = "";
    for (const struct ifaddrs *at = all; at; at = at->ifa_next) {
        int family = at->ifa_addr ? at->ifa_addr->sa_family : AF_UNSPEC;
        if (strcmp(at->ifa_name, nic) || (family != AF_INET && family != AF_INET6) || !at->ifa_netmask)
            continue;
        const void *address = family == AF_INET ? (void *)&((struct sockaddr_in *)at->ifa_addr)->sin_addr : (void *)&((struct sockaddr_in6 *)at->ifa_addr)->sin6_addr;
        inet_ntop(family, address, text, sizeof text);
        if (as_qga)
            put(out, "%s{\"ip-address\":\"%s\",\"ip-address-type\":\"%s\",\"prefix\":%d}", comma, text, family == AF_INET ? "ipv4" : "ipv6", prefix_of(at->ifa_netmask));
        else
            put(out, "%s\"%s/%d\"", comma, text, prefix_of(at->ifa_netmask));
        comma = ",";
    }
}

/* Adds a NIC after `comma`; false for one that was taken out since the folder was read: it has no address any more. */
static bool put_nic(struct buf *out, const struct ifaddrs *all, const char *nic, bool as_qga, const char *comma) {
    char mac[32], mtu[16], carrier[8], path[128], address[64];
    if (!nic_file(nic, "address", mac, sizeof mac))
        return false;
    put(out, "%s", comma);
    if (as_qga) {
        put(out, "{\"name\":\"%s\",\"hardware-address\":\"%s\",\"ip-addresses\":[", nic, mac);
        put_addresses(out, all, nic, true);
        put(out, "]}");
        return true;
    }
    nic_file(nic, "mtu", mtu, sizeof mtu);
    nic_file(nic, "carrier", carrier, sizeof carrier);
    put(out, "{\"name\":\"%s\",\"mac\":\"%s\",\"mtu\":%d,\"carrier\":%s,\"addresses\":[", nic, mac, atoi(mtu), carrier[0] == '1' ? "true" : "false");
    put_addresses(out, all, nic, false);
    snprintf(path, sizeof path, "/sys/class/net/%s/device", nic);
    bus_address(path, address, sizeof address);
    put(out, "],\"queues\":%d,\"address\":", count_queues(nic));
    put_string(out, address);
    put(out, "}");
    return true;
}

/* The NICs as the elements of a JSON list. The QEMU guest agent's list also has the loopback. */
void put_nics(struct buf *out, bool as_qga) {
    struct dirent **entries;
    struct ifaddrs *all = NULL;
    int nics = scandir("/sys/class/net", &entries, is_nic, alphasort);
    if (getifaddrs(&all))
        all = NULL;
    bool any = as_qga && put_nic(out, all, "lo", true, "");
    for (int i = 0; i < nics; i++) {
        any |= put_nic(out, all, entries[i]->d_name, as_qga, any ? "," : "");
        free(entries[i]);
    }
    if (nics >= 0)
        free(entries);
    if (all)
        freeifaddrs(all);
}

int verb_nics(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    state_await_drivers();
    put(out, "{\"nics\":[");
    put_nics(out, false);
    put(out, "]}");
    return 0;
}

static void gateway4(char *into, size_t size) {
    char line[256];
    unsigned destination, gateway, flags;
    FILE *routes = fopen("/proc/net/route", "re");
    into[0] = 0;
    while (routes && !into[0] && fgets(line, sizeof line, routes))
        if (sscanf(line, "%*s %x %x %x", &destination, &gateway, &flags) == 3 && !destination && gateway)
            inet_ntop(AF_INET, &(struct in_addr){gateway}, into, (socklen_t)size);
    if (routes)
        fclose(routes);
}

static void gateway6(char *into, size_t size) {
    char line[256], hop[33];
    unsigned prefix, byte;
    FILE *routes = fopen("/proc/net/ipv6_route", "re");
    into[0] = 0;
    while (routes && !into[0] && fgets(line, sizeof line, routes)) {
        struct in6_addr address = {0};
        if (sscanf(line, "%*32s %x %*32s %*x %32s", &prefix, hop) != 2 || prefix || strspn(line, "0") < 32 || strspn(hop, "0") == 32)
            continue;
        for (int i = 0; i < 16 && sscanf(hop + i * 2, "%2x", &byte) == 1; i++)
            address.s6_addr[i] = (uint8_t)byte;
        inet_ntop(AF_INET6, &address, into, (socklen_t)size);
    }
    if (routes)
        fclose(routes);
}

int verb_resolver(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    char text[INET6_ADDRSTRLEN], line[256], server[128];
    const char *comma = "";
    gateway4(text, sizeof text);
    put(out, "{\"gateway4\":\"%s\"", text);
    gateway6(text, sizeof text);
    put(out, ",\"gateway6\":\"%s\",\"dns\":[", text);
    FILE *resolv = fopen("/etc/resolv.conf", "re");
    while (resolv && fgets(line, sizeof line, resolv)) {
        if (sscanf(line, "nameserver %127s", server) != 1)
            continue;
        put(out, "%s", comma);
        put_string(out, server);
        comma = ",";
    }
    if (resolv)
        fclose(resolv);
    put(out, "]}");
    return 0;
}
