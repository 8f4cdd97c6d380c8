/* The test guest's agent: declarations shared by its files. Protocol: docs/guest-agent.md. */
#ifndef AGENT_H
#define AGENT_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define AGENT_VERSION "1"
#define LINE_MAX_BYTES (64 * 1024)
#define BLOCK 4096

/* buf.c: a growing text buffer, JSON output and a small JSON reader */
struct buf {
    char *text;
    size_t length, capacity;
};
void put(struct buf *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
void put_string(struct buf *out, const char *text);
int fail(struct buf *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
void clear(struct buf *out);
void release(struct buf *out);
const char *json_member(const char *object, const char *key);
bool json_is_valid(const char *text);
bool json_text(const char *value, char *into, size_t size);

/* util.c */
int64_t now_ns(clockid_t clock);
struct timespec deadline(int64_t milliseconds);
void sleep_ms(int64_t milliseconds);
bool read_text(const char *path, char *into, size_t size);
bool write_text(const char *path, const char *text);
bool parse_number(const char *text, uint64_t highest, uint64_t *number);
bool write_all(int fd, const void *data, size_t length);
bool read_all(int fd, void *data, size_t length);
void start_thread(void *(*body)(void *), void *argument);
bool try_thread(void *(*body)(void *), void *argument);
void for_each(const char *folder, const char *prefix, void (*use)(const char *name));
void bus_address(const char *sysfs_device, char *into, size_t size);
const char *boot_id(void);
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* clock.c */
void clock_catch_up(void);

/* hash.c */
struct sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
};
void sha256_start(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const void *data, size_t length);
void sha256_hex(struct sha256 *hash, char hex[65]);
uint32_t crc32_of(const void *data, size_t length);
void pattern_fill(uint64_t *words, size_t count, uint64_t first_index, uint64_t seed);
bool pattern_matches(const uint64_t *words, size_t count, uint64_t first_index, uint64_t seed);

/* verbs.c */
void answer(char *line, struct buf *reply);
typedef int verb_function(int count, char **arguments, struct buf *out);

/* init.c: process 1 */
int init_main(void);

/* modules.c */
void load_modules_for_this_machine(void);
void virtio_found(const char *name);

/* state.c: image id, boot counter and clean marker on the root disk */
void state_count_boot(bool drivers_complete);
void state_await_drivers(void);
void state_mark_clean(void);
void state_image_id(char *into, size_t size);
verb_function verb_boot;

/* vpd.c */
bool vpd_identifier(const unsigned char *page, size_t length, char *into, size_t size);

/* disks.c */
int disk_open(const char *serial, int flags, struct buf *out);
bool disk_path(const char *serial, char *into, size_t size);
verb_function verb_disks, verb_disk_write, verb_disk_hash;

/* xenstore.c */
bool xenstore_read(const char *path, char *into, size_t size);
void xen_serial(const char *params, char *into, size_t size);
bool xen_disk_serial(const char *node, char *into, size_t size);

/* writer.c */
void writer_quiesce(void);
int writer_freeze(void);
int writer_thaw(void);
bool writer_frozen(void);
verb_function verb_writer_start, verb_writer_status, verb_writer_stop, verb_writer_read;

/* the other verbs */
verb_function verb_identity, verb_cpus, verb_memory, verb_clocks, verb_kernel_problems, verb_print;
verb_function verb_nics, verb_resolver, verb_renew;
verb_function verb_ram_put, verb_ram_get, verb_ram_fill, verb_ram_verify, verb_ram_dirty;
verb_function verb_reboot, verb_poweroff, verb_panic, verb_hang, verb_ignore_acpi;
verb_function verb_beat_start, verb_beat_stop, verb_echo, verb_send_frame, verb_foreign_unicast;
void smbios_uuid(char *into, size_t size);

/* net.c */
bool nic_by_mac(const char *mac, char *name, size_t size);
void put_nics(struct buf *out, bool as_qga);

/* dhcp.c */
void nic_added(const char *name);
void nic_removed(const char *name);
bool dhcp_restart(const char *name);
int dhcp_event_main(const char *event);

/* servers.c, stream.c, qga.c, uevent.c */
void *tcp_server(void *unused);
void *echo_server(void *unused);
void *stream_server(void *unused);
void *serial_server(void *path);
void *uevent_loop(void *unused);
void qga_open(const char *port);

/* power.c */
enum power { POWER_OFF, POWER_REBOOT, POWER_HALT };
void power_request(enum power action);
void watch_button(const char *event);
bool acpi_ignored(void);
#endif
