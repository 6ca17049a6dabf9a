/* A libnvidia-ml that answers for the machine described in the file that FAKE_NVML names.

   The file has one word and its value a line. What stands before the first `device` is the driver's; what
   stands after a `device` or `mig` line is that one's (a `mig` belongs to the device above it):

       driver 560.35.03             version
       error FUNCTION CODE          what a function returns, for the driver, a device or an instance
       device                       begins a GPU
       mig                          begins a MIG instance
       name, uuid TEXT
       total, reserved, free BYTES
       capability MAJOR MINOR
       mig_mode 1                   the GPU is divided
       compute, graphics PID BYTES  a process; - for bytes that the driver does not tell

   The file is read again whenever memory is asked for, and each device stays where it is.

   Layouts and codes: nvml.h of CUDA 12. It is as strict as the real one: nothing is answered before nvmlInit,
   nor into an array that is too small, nor for a wrong version of a struct. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, UNKNOWN = 999 };
enum { ARGUMENT_VERSION_MISMATCH = 25, MOST = 16, MEMORY_V2 = 0x02000028 };

typedef unsigned long long bytes;
typedef struct { char function[64]; int code; } Fault;
typedef struct { unsigned pid; bytes used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { bytes total, free, used; } Memory;
typedef struct { unsigned version; bytes total, reserved, free, used; } MemoryV2;
typedef struct Unit {
    char name[96], uuid[96];
    bytes total, reserved, free;
    int major, minor, mig_mode;
    unsigned computing, drawing, instances, faults;
    Process compute[MOST], graphics[MOST];
    Fault fault[MOST];
    struct Unit *instance[MOST];
} Unit;

static Unit driver, gpus[MOST], instances[MOST][MOST];
static char driver_version[80] = "560.35.03";
static unsigned count;
static int initialized;

static void read_process(Unit *unit, const char *word, const char *value) {
    int drawing = word[0] == 'g';
    unsigned *number = drawing ? &unit->drawing : &unit->computing;
    Process *process = &(drawing ? unit->graphics : unit->compute)[(*number)++];
    char used[32];
    sscanf(value, "%u %31s", &process->pid, used);
    process->used = used[0] == '-' ? ~0ULL : strtoull(used, NULL, 10);
    process->gpu_instance = process->compute_instance = ~0U;
}

static void read_word(Unit *unit, const char *word, const char *value) {
    if (!strcmp(word, "driver")) snprintf(driver_version, sizeof driver_version, "%s", value);
    else if (!strcmp(word, "name")) snprintf(unit->name, sizeof unit->name, "%s", value);
    else if (!strcmp(word, "uuid")) snprintf(unit->uuid, sizeof unit->uuid, "%s", value);
    else if (!strcmp(word, "total")) unit->total = strtoull(value, NULL, 10);
    else if (!strcmp(word, "reserved")) unit->reserved = strtoull(value, NULL, 10);
    else if (!strcmp(word, "free")) unit->free = strtoull(value, NULL, 10);
    else if (!strcmp(word, "capability")) sscanf(value, "%d %d", &unit->major, &unit->minor);
    else if (!strcmp(word, "mig_mode")) unit->mig_mode = atoi(value);
    else if (!strcmp(word, "compute") || !strcmp(word, "graphics")) read_process(unit, word, value);
    else if (!strcmp(word, "error")) {
        Fault *fault = &unit->fault[unit->faults++];
        sscanf(value, "%63s %d", fault->function, &fault->code);
    } else {
        fprintf(stderr, "fake NVML: unknown word %s\n", word);
        abort();
    }
}

static int read_machine(void) {
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    Unit *unit = &driver;
    if (!file) return UNKNOWN;
    memset(&driver, 0, sizeof driver);
    memset(gpus, 0, sizeof gpus);
    memset(instances, 0, sizeof instances);
    count = 0;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *value = strchr(line, ' ');
        if (value) *value++ = 0;
        if (!strcmp(line, "device")) unit = &gpus[count++];
        else if (!strcmp(line, "mig")) {
            Unit *gpu = &gpus[count - 1];
            unit = &instances[count - 1][gpu->instances];
            gpu->instance[gpu->instances++] = unit;
        } else if (line[0]) read_word(unit, line, value ? value : "");
    }
    fclose(file);
    return OK;
}

static int fault_of(const Unit *unit, const char *function) {
    if (!initialized) return UNINITIALIZED;
    for (unsigned i = 0; i < unit->faults; i++)
        if (!strcmp(unit->fault[i].function, function)) return unit->fault[i].code;
    return OK;
}

#define ANSWER(unit) \
    do { int code = fault_of(unit, __func__); if (code) return code; } while (0)

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int code = read_machine();
    if (code) return code;
    initialized = 1;
    code = fault_of(&driver, __func__);
    initialized = code == OK;
    return code;
}

int nvmlShutdown(void) {
    ANSWER(&driver);
    initialized = 0;
    return OK;
}

const char *nvmlErrorString(int code) {
    static char text[32];
    snprintf(text, sizeof text, "Error %d", code);
    return text;
}

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    ANSWER(&driver);
    snprintf(text, length, "%s", driver_version);
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *number) {
    ANSWER(&driver);
    *number = count;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Unit **device) {
    ANSWER(&driver);
    if (index >= count) return INVALID;
    ANSWER(&gpus[index]);
    *device = &gpus[index];
    return OK;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Unit **device) {
    ANSWER(&driver);
    for (unsigned i = 0; i < count; i++) {
        if (!strcmp(gpus[i].uuid, uuid)) {
            ANSWER(&gpus[i]);
            *device = &gpus[i];
            return OK;
        }
        for (unsigned j = 0; j < gpus[i].instances; j++)
            if (!strcmp(instances[i][j].uuid, uuid)) {
                *device = &instances[i][j];
                return OK;
            }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetName(const Unit *device, char *text, unsigned length) {
    ANSWER(device);
    snprintf(text, length, "%s", device->name);
    return OK;
}

int nvmlDeviceGetUUID(const Unit *device, char *text, unsigned length) {
    ANSWER(device);
    snprintf(text, length, "%s", device->uuid);
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(const Unit *device, int *major, int *minor) {
    ANSWER(device);
    *major = device->major;
    *minor = device->minor;
    return OK;
}

int nvmlDeviceGetMemoryInfo(const Unit *device, Memory *memory) {
    if (initialized && read_machine()) return UNKNOWN;
    ANSWER(device);
    *memory = (Memory){device->total, device->free, device->total - device->free};
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(const Unit *device, MemoryV2 *memory) {
    if (initialized && read_machine()) return UNKNOWN;
    ANSWER(device);
    if (memory->version != MEMORY_V2) return ARGUMENT_VERSION_MISMATCH;
    bytes used = device->total - device->reserved - device->free;
    *memory = (MemoryV2){MEMORY_V2, device->total, device->reserved, device->free, used};
    return OK;
}

static int processes(const Process *from, unsigned number, unsigned *room, Process *to) {
    int fits = *room >= number;
    *room = number;
    if (!fits) return TOO_SMALL;
    if (number) memcpy(to, from, number * sizeof *from);
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(const Unit *device, unsigned *room, Process *to) {
    ANSWER(device);
    return processes(device->compute, device->computing, room, to);
}

int nvmlDeviceGetComputeRunningProcesses_v2(const Unit *device, unsigned *room, Process *to) {
    ANSWER(device);
    return processes(device->compute, device->computing, room, to);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(const Unit *device, unsigned *room, Process *to) {
    ANSWER(device);
    return processes(device->graphics, device->drawing, room, to);
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(const Unit *device, unsigned *room, Process *to) {
    ANSWER(device);
    return processes(device->graphics, device->drawing, room, to);
}

int nvmlDeviceGetMigMode(const Unit *device, unsigned *current, unsigned *pending) {
    ANSWER(device);
    if (device->major < 8) return NOT_SUPPORTED;
    *current = *pending = device->mig_mode;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(const Unit *device, unsigned *number) {
    ANSWER(device);
    *number = 7;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(const Unit *device, unsigned index, Unit **instance) {
    ANSWER(device);
    if (index >= device->instances) return NOT_FOUND;
    *instance = device->instance[index];
    return OK;
}
