/* Kernel modules: which groups this machine has a use for, and loading them. */
#include "agent.h"
#include <sys/syscall.h>

/* Loads the modules which /lib/modules.list names for the group: one "group file" a line, dependencies first. */
static void load_modules(const char *group) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    FILE *list = fopen("/lib/modules.list", "re");
    char of[32], file[96], path[128];
    if (!list)
        return;
    pthread_mutex_lock(&lock);
    while (fscanf(list, "%31s %95s", of, file) == 2) {
        if (strcmp(of, group))
            continue;
        snprintf(path, sizeof path, "/lib/modules/%s", file);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
            log_line("module %s: %s", file, strerror(errno));
        if (fd >= 0)
            close(fd);
    }
    pthread_mutex_unlock(&lock);
    fclose(list);
}

/* virtio device type 8 is a SCSI host; its modules are loaded only where there is one. */
void virtio_found(const char *name) {
    char path[300], type[16];
    snprintf(path, sizeof path, "/sys/bus/virtio/devices/%s/device", name);
    if (read_text(path, type, sizeof type) && strtoul(type, NULL, 16) == 8)
        load_modules("virtio-scsi");
}

/* Storage and network first: the boot counter and DHCP wait for them. */
void load_modules_for_this_machine(void) {
    char text[64];
    if (read_text("/sys/hypervisor/type", text, sizeof text) && !strcmp(text, "xen"))
        load_modules("xen");
    read_text("/sys/class/dmi/id/sys_vendor", text, sizeof text);
    if (!strncmp(text, "Microsoft", 9))
        load_modules("hyperv");
    else if (!strncmp(text, "VMware", 6))
        load_modules("vmware");
    load_modules("virtio");
    if (access("/sys/bus/pci", F_OK))
        load_modules("mmio");
    for_each("/sys/bus/virtio/devices", "virtio", virtio_found);
    state_count_boot(true);
    load_modules("acpi");
}
