# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
# csrc/include/palm.h, as far as Python uses it, and all of its enums.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "palm.h" nogil:
    ctypedef bint cbool "bool"

    ctypedef enum palm_err:
        PALM_OK
        PALM_ENOMEM
        PALM_EINVAL
        PALM_EAGAIN
        PALM_EINTR
        PALM_ECLOSED
        PALM_EFORK
        PALM_EMALFORMED
        PALM_EVERSION
        PALM_ELIMIT
        PALM_ESTALE
        PALM_EUNREACHABLE
        PALM_EFULL
        PALM_ENOSYM
        PALM_EKEY
        PALM_ERR_COUNT
        PALM_ESYS
    const char *palm_strerror(palm_err err)
    const char *palm_errname(palm_err err)

    enum:
        PALM_WIRE_VERSION
        PALM_MAX_RECORDS
        PALM_MAX_PATH
        PALM_MAX_ARRAYS
        PALM_MAX_DIMS
        PALM_MAX_TEXT
        PALM_MAX_STEPS
        PALM_MAX_DEPTH
        PALM_MAX_PARTS
        PALM_LITTLE_PART
        PALM_ALIGN

    ctypedef struct palm_space
    ctypedef struct palm_arena
    ctypedef struct palm_block
    ctypedef struct palm_space_options:
        uint64_t bound
        uint64_t floor
        uint64_t idle_ns
        bint no_arena
    ctypedef struct palm_identity:
        uint64_t arena_hi
        uint64_t arena_lo
        uint8_t boot_id[16]
        uint64_t pid_namespace
        int32_t pid
        int32_t fd
    ctypedef struct palm_space_stats:
        uint64_t arena_bound
        uint64_t arena_in_use
        uint64_t arena_idle
        uint64_t mapped
        uint64_t blocks_held
        uint64_t blocks_lent
        uint64_t allocs
        uint64_t allocs_full
        uint64_t taken
        uint64_t stale
        uint64_t trimmed_bytes
        uint64_t swept
        uint64_t peers
        uint64_t evacuated

    palm_err palm_space_open(const palm_space_options *options, palm_space **out)
    void palm_space_close(palm_space *space)
    bint palm_space_has_arena(const palm_space *space)
    bint palm_space_forked(const palm_space *space)
    bint palm_space_owns(const palm_space *space, const void *p)
    void *palm_space_alloc(palm_space *space, size_t n, bint zeroed)
    void palm_space_free(palm_space *space, void *p)
    palm_err palm_space_hold(palm_space *space, const void *p, size_t n, palm_arena **arena, uint32_t *index,
                             const void **first, size_t *size)
    void palm_block_hold(palm_arena *arena, uint32_t index)
    void palm_block_drop(palm_arena *arena, uint32_t index)
    void palm_space_identity(const palm_space *space, palm_identity *out)
    void palm_space_tick(palm_space *space, uint64_t now_ns)
    void palm_space_get_stats(palm_space *space, palm_space_stats *out)
    void *palm_space_page(const palm_space *space)
    palm_err palm_page_open(const palm_identity *of_, const void **page)
    void palm_page_close(const void *page)

    ctypedef enum palm_kind:
        PALM_HELLO
        PALM_OPEN
        PALM_DATA
        PALM_FORGET
        PALM_CANCEL
        PALM_RELEASE
        PALM_BYE
    uint64_t PALM_NO_NUMBER
    ctypedef enum palm_form:
        PALM_NOTHING
        PALM_BYTES
        PALM_ARRAY
        PALM_TREE
        PALM_DROP
        PALM_CLOSE
        PALM_ERROR
        PALM_ASK
        PALM_LOST
        PALM_ASIDE
        PALM_REDUCED
    ctypedef enum palm_drop:
        PALM_DROP_NOTHING
        PALM_DROP_SLOW
    ctypedef enum palm_place:
        PALM_IN_BODY
        PALM_IN_BLOCK
        PALM_IN_PART

    ctypedef struct palm_record:
        uint64_t number
        uint64_t deadline
        uint64_t body_at
        uint64_t body_size
        uint32_t path_at
        uint32_t path_count
        uint32_t array_at
        uint32_t array_count
        uint32_t count
        uint16_t attempt
        uint8_t form
        uint8_t flags
    ctypedef struct palm_array:
        uint64_t start
        uint64_t size
        uint64_t origin
        uint32_t dims_at
        uint32_t source
        uint16_t dtype
        uint8_t ndim
        uint8_t place
        uint32_t flags
    enum:
        PALM_ARRAY_SCALAR
    ctypedef struct palm_text:
        const char *data
        uint32_t size
    ctypedef struct palm_envelope:
        uint16_t kind
        uint16_t hop
        uint32_t handle
        uint64_t sender
        uint64_t seq
        const palm_record *records
        uint32_t n_records
        const uint64_t *paths
        uint32_t n_paths
        const palm_array *arrays
        uint32_t n_arrays
        const int64_t *dims
        uint32_t n_dims
        uint32_t n_blocks
        const palm_text *dtypes
        uint32_t n_dtypes
        const uint8_t *body
        uint64_t body_size
        uint32_t n_parts

    ctypedef struct palm_batch
    palm_err palm_batch_new(palm_batch **out)
    void palm_batch_free(palm_batch *batch)
    void palm_batch_clear(palm_batch *batch)
    uint32_t palm_batch_count(const palm_batch *batch)
    uint64_t palm_batch_bytes(const palm_batch *batch)
    uint32_t palm_batch_lent(const palm_batch *batch)
    bint palm_batch_full(const palm_batch *batch)
    palm_err palm_batch_record(palm_batch *batch, palm_form form, uint64_t number, palm_record **out)
    void palm_batch_set_form(palm_batch *batch, palm_form form, uint32_t count)
    void palm_batch_set_number(palm_batch *batch, uint64_t number)
    bint palm_batch_extend(palm_batch *batch, palm_form form, uint64_t number, uint64_t deadline, const void *bytes_, size_t n)
    uint8_t *palm_batch_extend_array(palm_batch *batch, uint64_t number, uint64_t deadline, const char *dtype,
                                     size_t dtype_size, uint8_t ndim, const int64_t *shape, const int64_t *strides,
                                     uint64_t size)
    palm_err palm_batch_run(palm_batch *batch, uint32_t n)
    palm_err palm_batch_add(palm_batch *batch, const palm_batch *from_, uint32_t i)
    void palm_batch_undo(palm_batch *batch)
    palm_err palm_batch_path(palm_batch *batch, const uint64_t *components, uint32_t n)
    palm_err palm_batch_body(palm_batch *batch, const void *bytes_, size_t n)
    palm_err palm_batch_array(palm_batch *batch, const char *dtype, size_t dtype_size, uint8_t ndim,
                              const int64_t *shape, const int64_t *strides, uint64_t size, uint64_t origin,
                              uint8_t **bytes_)
    palm_err palm_batch_lend(palm_batch *batch, const char *dtype, size_t dtype_size, uint8_t ndim,
                             const int64_t *shape, const int64_t *strides, uint64_t size, uint64_t origin,
                             palm_arena *arena, uint32_t index, const void *first, uint64_t start)

    ctypedef struct palm_writer
    palm_err palm_writer_new(palm_writer **out)
    void palm_writer_free(palm_writer *writer)
    palm_err palm_batch_pack(const palm_batch *batch, palm_writer *writer, const uint8_t **head, size_t *head_size,
                             const uint8_t **body, size_t *body_size)

    enum:
        PALM_MAX_FUNCTIONS
        PALM_HISTOGRAM
        PALM_NAME_BYTES
        PALM_PAGE_BYTES
    ctypedef struct palm_function_counters:
        char name[64]
        uint64_t calls
        uint64_t busy_ns
        uint64_t histogram[40]
    ctypedef struct palm_unread:
        uint64_t envelopes
        int64_t pid
    ctypedef struct palm_waiting:
        uint64_t since_ns
        char servers[504]
    ctypedef struct palm_at_work:
        uint64_t since_ns
        uint64_t number
        uint64_t function
        uint64_t job[2]
        uint32_t hop
        uint32_t together
        uint32_t path_count
        uint32_t attempt
        uint64_t path[32]
        uint64_t limit_ns
        uint32_t ended
        uint64_t ended_since
        uint64_t unwanted_since
        uint64_t completed
        uint64_t last_number
        uint32_t last_path_count
        uint64_t last_path[32]
    ctypedef enum palm_end:
        PALM_END_NONE
        PALM_END_OVERRUN
        PALM_END_LATE
        PALM_END_UNWANTED
    enum:
        PALM_MAX_OWN
        PALM_OWN_BUCKETS
        PALM_OWN_LEAST
    ctypedef enum palm_own_kind:
        PALM_OWN_NONE
        PALM_OWN_COUNTER
        PALM_OWN_HISTOGRAM
    ctypedef struct palm_own_counter:
        char name[64]
        uint64_t kind
        uint64_t count
        uint64_t sum
        uint64_t histogram[42]
    ctypedef struct palm_memory:
        uint64_t limit
        uint64_t had
        uint64_t lacked
    ctypedef struct palm_counters:
        uint64_t messages_in
        uint64_t messages_out
        uint64_t bytes_in
        uint64_t bytes_out
        uint64_t bytes_copied
        uint64_t batches
        uint64_t errors
        uint64_t retries
        uint64_t rejected
        uint64_t dropped
        uint64_t queue_depth
        uint64_t in_flight
        uint64_t busy_ns
        uint64_t backlog, held
        uint64_t sent_arena
        uint64_t sent_inline
        uint64_t sent_frames
        uint64_t by_ring
        uint64_t by_socket
        uint64_t links_ring
        uint64_t links_socket
        uint64_t links_tcp
        uint64_t copied_kept
        uint64_t copied_foreign
        uint64_t copied_thread
        uint64_t alloc_arena
        uint64_t alloc_small
        uint64_t alloc_full
        uint64_t idle_ns
        uint64_t serves_since_ns
        uint64_t sleeps_since_ns
        uint64_t arena_in_use
        uint64_t arena_idle
        uint64_t mapped
        uint64_t pulse_ns
        uint64_t gil_asked_ns, gil_had_ns
        uint64_t stale
        uint64_t lost_links
        palm_unread unread
        palm_waiting waiting
        palm_at_work at_work
        palm_function_counters functions[64]
        palm_memory memory
    void palm_memory_limit_set(uint64_t limit, uint64_t reserved)
    void palm_memory_limit_keep(uint64_t reserved, uint64_t most)
    void palm_memory_limit_room(uint64_t bytes)
    void palm_memory_limit_trim()
    uint64_t palm_memory_limit_had()
    void palm_memory_watch(palm_memory *memory, uint64_t limit)
    void palm_memory_ended(palm_memory *memory, bint lacked)
    void palm_count(uint64_t *counter, uint64_t n)
    void palm_tally(uint64_t *counter, uint64_t n)
    void palm_gauge(uint64_t *gauge, uint64_t value)
    void palm_count_call(palm_function_counters *function, uint64_t ns)
    void palm_count_calls(palm_function_counters *function, uint64_t n, uint64_t ns)
    void palm_count_step(palm_function_counters *function, uint64_t ns)
    int PALM_TRACKED
    void palm_work_on(palm_at_work *work, const uint8_t *job, uint32_t hop, uint32_t function, uint32_t together,
                      uint32_t client)
    void palm_work_terms(palm_at_work *work, uint32_t attempt, uint64_t limit_ns, uint64_t spent_ns,
                         uint64_t deadline_ns)
    void palm_work_begin(palm_at_work *work, uint64_t number, const uint64_t *path, uint32_t n, uint64_t now_ns)
    void palm_work_upto(palm_at_work *work, uint64_t number, const uint64_t *path, uint32_t n)
    void palm_work_end(palm_at_work *work, bint completed)
    palm_err palm_own_add(palm_counters *counters, palm_own_kind kind, const char *name, size_t size, double value)
    bint palm_own_read(const palm_counters *counters, uint32_t i, palm_own_counter *out)
    void palm_wait_begin(palm_waiting *waiting, const char *servers, size_t size, uint64_t now_ns)
    void palm_wait_end(palm_waiting *waiting)
    bint palm_wait_read(const palm_waiting *waiting, palm_waiting *out)
    bint palm_work_read(const palm_at_work *work, palm_at_work *out)
    void palm_work_unwanted(palm_at_work *work, uint64_t since_ns, uint64_t now_ns)

    palm_err palm_zmq_load(const char *path, const char **missing)
    void palm_zmq_version(int *major, int *minor, int *patch)
    bint palm_zmq_has(const char *capability)

    ctypedef struct palm_node
    enum:
        PALM_KEY_BYTES
    ctypedef struct palm_keys:
        uint8_t public_key[32]
        uint8_t secret_key[32]
    palm_err palm_gate_allow(const uint8_t (*keys)[32], uint32_t n)
    ctypedef struct palm_node_options:
        const char *endpoint
        const palm_keys *keys
        const char *name
        palm_space *space
        bint frames
        bint sockets
        bint sleeping
        bint serves
    palm_err palm_node_open(const palm_node_options *options, palm_node **out)
    void palm_node_shut(palm_node *node)
    void palm_node_close(palm_node *node, int linger_ms, uint32_t *unsent)
    const char *palm_node_endpoint(const palm_node *node)
    int palm_node_door(const palm_node *node)
    palm_err palm_node_link(palm_node *node, const char *endpoint, int32_t pid, uint32_t *link)
    palm_err palm_node_link_named(palm_node *node, const char *endpoint, int32_t pid, uint32_t *link)
    ctypedef enum palm_link_state:
        PALM_LINK_GONE
        PALM_LINK_OPENING
        PALM_LINK_READY
    palm_link_state palm_node_link_state(palm_node *node, uint32_t link, cbool *mapped)
    palm_err palm_node_send(palm_node *node, uint32_t link, palm_kind kind, uint32_t handle, uint16_t hop,
                            const palm_batch *batch)
    ctypedef enum palm_event_kind:
        PALM_EVENT_MESSAGE
        PALM_EVENT_READY
        PALM_EVENT_GONE
        PALM_EVENT_WAKE
        PALM_EVENT_STOP
    ctypedef struct palm_frames
    ctypedef struct palm_taken:
        palm_arena *arena
        const uint8_t *first
        uint32_t index
        palm_err err
    ctypedef struct palm_run:
        uint32_t first
        uint32_t count
        uint32_t array
    ctypedef struct palm_event:
        palm_event_kind kind
        uint32_t link
        uint32_t reason
        palm_envelope envelope
        palm_run *runs
        uint32_t n_runs
        palm_frames *frames
        palm_taken *blocks
        const uint8_t **parts
    palm_err palm_node_next(palm_node *node, int timeout_ms, palm_event *event)
    void palm_event_done(palm_event *event)
    palm_err palm_batch_relay(palm_batch *batch, const palm_event *event, uint32_t i, uint32_t most, uint32_t *n)
    palm_err palm_event_unpack(const void *frame, size_t size, palm_event *event)
    void palm_frames_hold(palm_frames *frames)
    void palm_frames_drop(palm_frames *frames)
    void palm_node_wake(palm_node *node)
    void palm_node_stop(palm_node *node)
    const char *palm_node_rejected(palm_node *node)
    void palm_node_tick(palm_node *node, palm_unread *unread)

    ctypedef struct palm_pulse
    palm_err palm_pulse_start(palm_space *space, palm_pulse **out)
    palm_err palm_pulse_add(palm_pulse *pulse, palm_node *node)
    void palm_pulse_remove(palm_pulse *pulse, palm_node *node)
    void palm_pulse_watch_owner(palm_pulse *pulse, int owner_fd, int grace_ms, const char *unlink_path)
    void palm_pulse_ask(palm_pulse *pulse, int fd)
    void palm_pulse_limit(palm_pulse *pulse, palm_node *node, int grace_ms)
    void palm_pulse_relieve(palm_pulse *pulse, int fd)
    void palm_pulse_stop(palm_pulse *pulse)

    ctypedef struct palm_book
    enum:
        PALM_BOOK_NEW
        PALM_BOOK_COMPLETED
        PALM_BOOK_INPUT_DONE
        PALM_BOOK_CONTRADICTION
    uint32_t palm_book_depth(uint32_t verdict)
    palm_err palm_book_new(palm_book **out)
    void palm_book_free(palm_book *book)
    palm_err palm_book_begin(palm_book *book, uint64_t first, uint64_t n)
    palm_err palm_book_skip(palm_book *book, uint64_t next)
    bint palm_book_are_open(const palm_book *book, uint64_t first, uint64_t n)
    void palm_book_settle_all(palm_book *book, uint64_t first, uint64_t n)
    palm_err palm_book_settle(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path,
                              uint32_t *verdict)
    palm_err palm_book_close(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path,
                             uint64_t children, uint32_t *verdict)
    palm_err palm_book_prune(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path,
                             uint32_t *verdict)
    void palm_book_forget(palm_book *book, uint64_t number)
    uint64_t palm_book_open_inputs(const palm_book *book)
    bint palm_book_is_open(const palm_book *book, uint64_t number)
    uint64_t palm_book_unsettled(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path)
    bint palm_book_next(const palm_book *book, uint64_t from_, uint64_t *number)
    bint palm_book_is_next(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path)
    ctypedef enum palm_book_state:
        PALM_BOOK_UNKNOWN
        PALM_BOOK_OPEN
        PALM_BOOK_OVER
    ctypedef struct palm_range:
        uint64_t from_ "from"
        uint64_t to
    palm_book_state palm_book_ranges(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path,
                                     palm_range *ranges, uint32_t room, uint32_t *n)
    palm_err palm_book_grant(palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path, uint64_t upto,
                             uint32_t *verdict)
    uint64_t palm_book_granted(const palm_book *book, uint64_t number, const uint64_t *path, uint32_t n_path)
    uint64_t palm_book_live(const palm_book *book)
    palm_err palm_book_copy(const palm_book *book, palm_book **out)
    size_t palm_book_dump(const palm_book *book, uint64_t *out, size_t room)
