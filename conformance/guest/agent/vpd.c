/* The device identification page (0x83, SPC-4 7.8.6) of a SCSI disk: a serial where the hypervisor has no other place. */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Hyper-V shows a virtual disk's identifier as a T10 designator: "MSFT" padded to 8 characters, then its 16 bytes. A
 * driver can set those; where they are text, padded with zeros, they are the serial. */
bool vpd_identifier(const unsigned char *page, size_t length, char *into, size_t size) {
    if (length < 4 || page[1] != 0x83)
        return false;
    size_t end = 4 + ((size_t)page[2] << 8 | page[3]);
    if (end > length)
        end = length;
    for (size_t at = 4; at + 4 <= end;) {
        const unsigned char *designator = page + at;
        size_t bytes = designator[3];
        at += 4 + bytes;
        if (at > end)
            return false;
        if ((designator[1] & 0x0f) != 1 || bytes < 24 || memcmp(designator + 4, "MSFT    ", 8))
            continue;
        const unsigned char *text = designator + 12;
        size_t count = 0;
        while (count < 16 && text[count] > 32 && text[count] < 127)
            count++;
        for (size_t rest = count; rest < 16; rest++)
            if (text[rest])
                return false; /* an identifier that nobody set */
        if (!count || count >= size)
            return false;
        memcpy(into, text, count);
        into[count] = 0;
        return true;
    }
    return false;
}
