// SPDX-License-Identifier: BSD-3-Clause
//
// The only C++ of the core: encodes and decodes heads with FlatBuffers' own generated code and verifier. What a head
// has to obey beyond that is checked in envelope_check.c, for what is written as for what was read.
#include "envelope_check.h"
#include "palm_generated.h"

#include <new>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "structs and the bytes of arrays pass without conversion: this host has to be little-endian"
#endif

namespace wire = palm::wire;
using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;
using flatbuffers::String;
using flatbuffers::Vector;
using flatbuffers::Verifier;

// ------------------------------------------------------------------------------ the structs of our headers and of the schema

static_assert(sizeof(palm_record) == sizeof(wire::Record) && alignof(palm_record) == alignof(wire::Record), "Record");
static_assert(sizeof(palm_array) == sizeof(wire::Array) && alignof(palm_array) == alignof(wire::Array), "Array");
static_assert(sizeof(palm_block) == sizeof(wire::Block) && alignof(palm_block) == alignof(wire::Block), "Block");

// The generated fields are private, but an explicit instantiation may name them ([temp.explicit]: no access checks).
template <typename, size_t ours, size_t theirs> struct same_place {
    static_assert(ours == theirs, "palm_envelope.h and schema/palm.fbs differ in a struct");
};
#define SAME_PLACE(type, generated, field) \
    template struct same_place<type, offsetof(type, field), offsetof(wire::generated, field##_)>;
SAME_PLACE(palm_record, Record, number)
SAME_PLACE(palm_record, Record, deadline)
SAME_PLACE(palm_record, Record, body_at)
SAME_PLACE(palm_record, Record, body_size)
SAME_PLACE(palm_record, Record, path_at)
SAME_PLACE(palm_record, Record, path_count)
SAME_PLACE(palm_record, Record, array_at)
SAME_PLACE(palm_record, Record, array_count)
SAME_PLACE(palm_record, Record, count)
SAME_PLACE(palm_record, Record, attempt)
SAME_PLACE(palm_record, Record, form)
SAME_PLACE(palm_record, Record, flags)
SAME_PLACE(palm_array, Array, start)
SAME_PLACE(palm_array, Array, size)
SAME_PLACE(palm_array, Array, origin)
SAME_PLACE(palm_array, Array, dims_at)
SAME_PLACE(palm_array, Array, source)
SAME_PLACE(palm_array, Array, dtype)
SAME_PLACE(palm_array, Array, ndim)
SAME_PLACE(palm_array, Array, place)
SAME_PLACE(palm_array, Array, flags)
SAME_PLACE(palm_block, Block, arena_hi)
SAME_PLACE(palm_block, Block, arena_lo)
SAME_PLACE(palm_block, Block, generation)
SAME_PLACE(palm_block, Block, at)
SAME_PLACE(palm_block, Block, size)
SAME_PLACE(palm_block, Block, index)
SAME_PLACE(palm_block, Block, pid)
SAME_PLACE(palm_block, Block, fd)
SAME_PLACE(palm_block, Block, reserved)

static_assert((int)wire::Kind::MIN == 0 && (int)wire::Kind::MAX == PALM_BYE, "Kind");
static_assert((int)wire::Kind::Hello == PALM_HELLO && (int)wire::Kind::Data == PALM_DATA, "Kind");
static_assert((int)wire::Form::Tree == PALM_TREE && (int)wire::Form::MAX == PALM_REDUCED, "Form");
static_assert((int)wire::Place::Block == PALM_IN_BLOCK && (int)wire::Place::MAX == PALM_IN_PART, "Place");
static_assert(PALM_MAX_HEAD % PALM_ALIGN == 0, "a head of the largest size is padded without exceeding it");

static size_t aligned(size_t n)
{
    return (n + PALM_ALIGN - 1) & ~(size_t)(PALM_ALIGN - 1);
}

// ------------------------------------------------------------------------------------------------------- plain heads

// The head of an envelope with one record, and nothing that this record would have to name, differs from the next such one
// in numbers alone. So both who writes and who reads keep the last one, and what FlatBuffers need not be asked again.

namespace {

enum Number { KIND, HOP, HANDLE, SENDER, SEQ, BODY_SIZE, N_NUMBERS };
const flatbuffers::voffset_t FIELD[N_NUMBERS] = {wire::Envelope::VT_KIND,   wire::Envelope::VT_HOP, wire::Envelope::VT_HANDLE,
                                                 wire::Envelope::VT_SENDER, wire::Envelope::VT_SEQ, wire::Envelope::VT_BODY_SIZE};
const size_t WIDTH[N_NUMBERS] = {sizeof palm_envelope::kind,   sizeof palm_envelope::hop, sizeof palm_envelope::handle,
                                 sizeof palm_envelope::sender, sizeof palm_envelope::seq, sizeof palm_envelope::body_size};

struct PlainHead {
    enum { ROOM = 256 };
    uint8_t bytes[ROOM];          // its padding included
    uint8_t rest[ROOM];           // ones where any plain head has the same as this one
    size_t size;                  // 0: there is none
    size_t at[N_NUMBERS], record; // where they are

    void keep(const uint8_t *head, size_t n);
    bool is_like(const uint8_t *head, size_t n) const;
};

// Of what was verified; the one before stays if this one is large, has left out a number that is 0, or has its vtable behind
// its table. For a stranger may lay fields over one another, and over all that lies behind the table, but not before it: so
// of a head that is like this one the vtable is the same, and its numbers and its record are where they are here.
void PlainHead::keep(const uint8_t *head, size_t n)
{
    const wire::Envelope *root = wire::GetSizePrefixedEnvelope(head);
    auto table = reinterpret_cast<const flatbuffers::Table *>(root);
    size_t found[N_NUMBERS];
    if (n > ROOM || table->GetVTable() > reinterpret_cast<const uint8_t *>(table))
        return;
    for (int i = 0; i < N_NUMBERS; i++) {
        const uint8_t *field = table->GetAddressOf(FIELD[i]);
        if (!field)
            return;
        found[i] = static_cast<size_t>(field - head);
    }
    memcpy(at, found, sizeof at);
    record = static_cast<size_t>(root->records()->Data() - head);
    memset(rest, 0xff, n);
    for (int i = 0; i < N_NUMBERS; i++)
        memset(rest + at[i], 0, WIDTH[i]);
    memset(rest + record, 0, sizeof(palm_record));
    memcpy(bytes, head, n);
    size = n;
}

bool PlainHead::is_like(const uint8_t *head, size_t n) const
{
    uint64_t differs = 0, ours, theirs, same;
    if (!size || n < size)
        return false;
    for (size_t i = 0; i < size; i += sizeof ours) {
        memcpy(&ours, bytes + i, sizeof ours);
        memcpy(&theirs, head + i, sizeof theirs);
        memcpy(&same, rest + i, sizeof same);
        differs |= (ours ^ theirs) & same;
    }
    return !differs;
}

bool is_plain(const palm_envelope *e)
{
    return e->n_records == 1 && !(e->n_paths | e->n_arrays | e->n_dims | e->n_blocks | e->n_dtypes | e->n_parts) && !e->hello;
}

} // namespace

// ---------------------------------------------------------------------------------------------------------- writing

namespace {

// What the builder builds in. FlatBuffers cannot be told that memory has run out, so it never may: the writer reserves
// enough before it begins, and the builder, born with that size, asks once and never for more. Behind the builder's
// bytes lie PALM_ALIGN zeros: a head is built towards its end, so they are its padding.
class Memory : public flatbuffers::Allocator {
  public:
    uint8_t *bytes = nullptr;
    size_t size = 0;

    ~Memory() override { free(bytes); }

    uint8_t *allocate(size_t wanted) override
    {
        FLATBUFFERS_ASSERT(wanted == size);
        return wanted == size ? bytes : nullptr; // a wrong largest_head() ends in a fault, not in others' memory
    }

    void deallocate(uint8_t *, size_t) override {}

    bool grow(size_t wanted)
    {
        uint8_t *more = static_cast<uint8_t *>(malloc(wanted + PALM_ALIGN));
        if (!more)
            return false;
        memset(more + wanted, 0, PALM_ALIGN);
        free(bytes);
        bytes = more;
        size = wanted;
        return true;
    }
};

} // namespace

struct palm_writer {
    Memory memory; // destroyed after the builder that uses it
    FlatBufferBuilder builder{0, &memory};
    Offset<String> *texts = nullptr;
    uint32_t texts_room = 0;
    PlainHead plain{};

    ~palm_writer() { free(texts); }
};

palm_err palm_writer_new(palm_writer **out)
{
    palm_writer *w = new (std::nothrow) palm_writer;
    if (!w)
        return PALM_ENOMEM;
    *out = w;
    return PALM_OK;
}

void palm_writer_free(palm_writer *w)
{
    delete w;
}

static bool pointers_missing(const palm_envelope *e)
{
    if ((e->n_records && !e->records) || (e->n_paths && !e->paths) || (e->n_arrays && !e->arrays) ||
        (e->n_dims && !e->dims) || (e->n_blocks && !e->blocks) || (e->n_dtypes && !e->dtypes) ||
        (e->n_parts && !e->parts))
        return true;
    for (uint32_t i = 0; i < e->n_dtypes; i++)
        if (e->dtypes[i].size && !e->dtypes[i].data)
            return true;
    return e->hello && ((e->hello->endpoint.size && !e->hello->endpoint.data) ||
                        (e->hello->name.size && !e->hello->name.data));
}

// Bytes that the head cannot exceed, the builder's notes included: each vector and text costs its items, its length, a
// terminator, an offset and padding; both tables, their vtables and the notes about them are less than 512 bytes.
static uint64_t largest_head(const palm_envelope *e)
{
    enum { VECTOR = 24, TEXT = 16, TABLES = 1024 };
    uint64_t n = TABLES + 8 * VECTOR;
    n += (uint64_t)e->n_records * sizeof(palm_record) + (uint64_t)e->n_arrays * sizeof(palm_array) +
         (uint64_t)e->n_blocks * sizeof(palm_block);
    n += ((uint64_t)e->n_paths + e->n_dims + e->n_parts) * 8;
    for (uint32_t i = 0; i < e->n_dtypes; i++)
        n += e->dtypes[i].size + TEXT;
    if (e->hello)
        n += (uint64_t)e->hello->endpoint.size + e->hello->name.size + sizeof e->hello->identity.boot_id + 3 * VECTOR;
    return n;
}

static palm_err reserve_texts(palm_writer *w, uint32_t n)
{
    if (n <= w->texts_room)
        return PALM_OK;
    void *more = realloc(w->texts, n * sizeof *w->texts);
    if (!more)
        return PALM_ENOMEM;
    w->texts = static_cast<Offset<String> *>(more);
    w->texts_room = n;
    return PALM_OK;
}

static palm_err reserve(palm_writer *w, const palm_envelope *e)
{
    uint64_t wanted = largest_head(e);
    if (wanted > 2 * (uint64_t)PALM_MAX_HEAD) // by more than the estimate can be wrong
        return PALM_ELIMIT;
    if (wanted > w->memory.size) {
        size_t size = w->memory.size ? w->memory.size : 4096;
        while (size < wanted)
            size *= 2;
        if (!w->memory.grow(size))
            return PALM_ENOMEM;
        w->builder = FlatBufferBuilder(size, &w->memory);
    }
    return reserve_texts(w, e->n_dtypes);
}

template <typename T> static Offset<Vector<T>> put_numbers(FlatBufferBuilder &b, const T *at, uint32_t n)
{
    return n ? b.CreateVector(at, n) : Offset<Vector<T>>();
}

template <typename T, typename Ours>
static Offset<Vector<const T *>> put_structs(FlatBufferBuilder &b, const Ours *at, uint32_t n)
{
    static_assert(sizeof(T) == sizeof(Ours), "a struct of the schema and its twin in palm_envelope.h");
    return n ? b.CreateVectorOfStructs(reinterpret_cast<const T *>(at), n) : Offset<Vector<const T *>>();
}

static Offset<Vector<Offset<String>>> put_dtypes(palm_writer *w, const palm_envelope *e)
{
    for (uint32_t i = 0; i < e->n_dtypes; i++)
        w->texts[i] = w->builder.CreateString(e->dtypes[i].data, e->dtypes[i].size);
    return put_numbers(w->builder, w->texts, e->n_dtypes);
}

static Offset<wire::Hello> put_hello(FlatBufferBuilder &b, const palm_hello *h)
{
    if (!h)
        return 0;
    Offset<String> endpoint = b.CreateString(h->endpoint.data, h->endpoint.size);
    Offset<String> name = b.CreateString(h->name.data, h->name.size);
    Offset<Vector<uint8_t>> boot_id = b.CreateVector(h->identity.boot_id, sizeof h->identity.boot_id);
    return wire::CreateHello(b, endpoint, name, h->slot, h->identity.arena_hi, h->identity.arena_lo, boot_id,
                             h->identity.pid_namespace, h->identity.pid, h->identity.fd, h->word, h->tag, h->bell, h->wake,
                             h->ring, h->ring_id);
}

static void build(palm_writer *w, const palm_envelope *e)
{
    FlatBufferBuilder &b = w->builder;
    b.Clear();
    auto hello = put_hello(b, e->hello);
    auto dtypes = put_dtypes(w, e);
    auto blocks = put_structs<wire::Block>(b, e->blocks, e->n_blocks);
    auto dims = put_numbers(b, e->dims, e->n_dims);
    auto arrays = put_structs<wire::Array>(b, e->arrays, e->n_arrays);
    auto paths = put_numbers(b, e->paths, e->n_paths);
    auto records = put_structs<wire::Record>(b, e->records, e->n_records);
    auto parts = put_numbers(b, e->parts, e->n_parts);
    auto root = wire::CreateEnvelope(b, PALM_WIRE_VERSION, static_cast<wire::Kind>(e->kind), e->hop, e->handle,
                                     e->sender, e->seq, e->body_size, parts, records, paths, arrays, dims, blocks,
                                     dtypes, hello);
    wire::FinishSizePrefixedEnvelopeBuffer(b, root);
}

static void write_plain(PlainHead *h, const palm_envelope *e)
{
    memcpy(h->bytes + h->at[KIND], &e->kind, sizeof e->kind);
    memcpy(h->bytes + h->at[HOP], &e->hop, sizeof e->hop);
    memcpy(h->bytes + h->at[HANDLE], &e->handle, sizeof e->handle);
    memcpy(h->bytes + h->at[SENDER], &e->sender, sizeof e->sender);
    memcpy(h->bytes + h->at[SEQ], &e->seq, sizeof e->seq);
    memcpy(h->bytes + h->at[BODY_SIZE], &e->body_size, sizeof e->body_size);
    memcpy(h->bytes + h->record, e->records, sizeof *e->records);
}

palm_err palm_writer_head(palm_writer *w, const palm_envelope *e, const uint8_t **head, size_t *size)
{
    if (pointers_missing(e))
        return PALM_EINVAL;
    palm_err err = palmi_envelope_check(e);
    if (err)
        return err == PALM_EMALFORMED ? PALM_EINVAL : err;
    bool plain = is_plain(e);
    if (plain && w->plain.size) {
        write_plain(&w->plain, e);
        *head = w->plain.bytes;
        *size = w->plain.size;
        return PALM_OK;
    }
    err = reserve(w, e);
    if (err)
        return err;
    w->builder.ForceDefaults(plain); // so that no number is left out
    build(w, e);
    if (w->builder.GetSize() > PALM_MAX_HEAD)
        return PALM_ELIMIT;
    *head = w->builder.GetBufferPointer();
    *size = aligned(w->builder.GetSize());
    if (plain)
        w->plain.keep(*head, *size);
    return PALM_OK;
}

// ---------------------------------------------------------------------------------------------------------- reading

struct palm_reader {
    palm_text *dtypes;
    uint32_t dtypes_room;
    palm_hello hello;
    PlainHead plain;
};

palm_err palm_reader_new(palm_reader **out)
{
    palm_reader *r = static_cast<palm_reader *>(calloc(1, sizeof *r));
    if (!r)
        return PALM_ENOMEM;
    *out = r;
    return PALM_OK;
}

void palm_reader_free(palm_reader *r)
{
    if (r)
        free(r->dtypes);
    free(r);
}

// Where the FlatBuffer ends, by its size prefix, and where the body begins.
static palm_err find_end(const uint8_t *frame, size_t size, size_t *end, size_t *body)
{
    uint32_t prefix;
    if (size < PALM_ALIGN)
        return PALM_EMALFORMED;
    memcpy(&prefix, frame, sizeof prefix);
    if (prefix > PALM_MAX_HEAD - sizeof prefix)
        return PALM_ELIMIT;
    *end = prefix + sizeof prefix;
    *body = aligned(*end);
    if (*body > size)
        return PALM_EMALFORMED;
    for (size_t i = *end; i < *body; i++)
        if (frame[i])
            return PALM_EMALFORMED;
    return PALM_OK;
}

static Verifier verifier(const uint8_t *frame, size_t end)
{
    Verifier::Options options;
    options.max_depth = options.max_tables = 2; // Envelope and Hello
    options.max_size = PALM_MAX_HEAD + 1;
    return Verifier(frame, end, options);
}

// Looks at the version before all else, since another version may have other structs.
static palm_err check_version(const uint8_t *frame, size_t end)
{
    Verifier v = verifier(frame, end);
    if (end < FLATBUFFERS_MIN_BUFFER_SIZE || !wire::SizePrefixedEnvelopeBufferHasIdentifier(frame))
        return PALM_EMALFORMED;
    size_t root = v.VerifyOffset(sizeof(uint32_t));
    if (!root)
        return PALM_EMALFORMED;
    auto table = reinterpret_cast<const flatbuffers::Table *>(frame + sizeof(uint32_t) + root);
    if (!table->VerifyTableStart(v) || !table->VerifyField<uint16_t>(v, wire::Envelope::VT_VERSION, sizeof(uint16_t)))
        return PALM_EMALFORMED;
    uint16_t version = table->GetField<uint16_t>(wire::Envelope::VT_VERSION, 0);
    return version == PALM_WIRE_VERSION ? PALM_OK : PALM_EVERSION;
}

// FlatBuffers verifies that a vector's length is aligned, not that its items are.
template <typename Ours, typename T> static bool view(const Vector<T> *vector, const Ours **at, uint32_t *n)
{
    *at = nullptr;
    *n = vector ? vector->size() : 0;
    if (!*n)
        return true;
    const uint8_t *data = vector->Data();
    if (reinterpret_cast<uintptr_t>(data) % alignof(Ours))
        return false;
    *at = reinterpret_cast<const Ours *>(data);
    return true;
}

static bool view_all(const wire::Envelope *root, palm_envelope *e)
{
    return view(root->records(), &e->records, &e->n_records) && view(root->paths(), &e->paths, &e->n_paths) &&
           view(root->arrays(), &e->arrays, &e->n_arrays) && view(root->dims(), &e->dims, &e->n_dims) &&
           view(root->blocks(), &e->blocks, &e->n_blocks) && view(root->parts(), &e->parts, &e->n_parts);
}

static palm_text text_of(const String *string)
{
    return string ? palm_text{string->c_str(), string->size()} : palm_text{"", 0};
}

static palm_err read_dtypes(palm_reader *r, const Vector<Offset<String>> *dtypes, palm_envelope *e)
{
    uint32_t n = dtypes ? dtypes->size() : 0;
    if (n > PALM_MAX_ARRAYS)
        return PALM_ELIMIT;
    if (n > r->dtypes_room) {
        void *more = realloc(r->dtypes, n * sizeof *r->dtypes);
        if (!more)
            return PALM_ENOMEM;
        r->dtypes = static_cast<palm_text *>(more);
        r->dtypes_room = n;
    }
    for (uint32_t i = 0; i < n; i++)
        r->dtypes[i] = text_of(dtypes->Get(i));
    e->dtypes = n ? r->dtypes : nullptr;
    e->n_dtypes = n;
    return PALM_OK;
}

static palm_err read_hello(palm_reader *r, const wire::Hello *h, palm_envelope *e)
{
    e->hello = nullptr;
    if (!h)
        return PALM_OK;
    r->hello = palm_hello();
    palm_identity *identity = &r->hello.identity;
    if (h->boot_id() && h->boot_id()->size() != sizeof identity->boot_id)
        return PALM_EMALFORMED;
    if (h->boot_id())
        memcpy(identity->boot_id, h->boot_id()->Data(), sizeof identity->boot_id);
    identity->arena_hi = h->arena_hi();
    identity->arena_lo = h->arena_lo();
    identity->pid_namespace = h->pid_namespace();
    identity->pid = h->pid();
    identity->fd = h->fd();
    r->hello.endpoint = text_of(h->endpoint());
    r->hello.name = text_of(h->name());
    r->hello.slot = h->slot();
    r->hello.word = h->word();
    r->hello.tag = h->tag();
    r->hello.bell = h->bell();
    r->hello.wake = h->wake();
    r->hello.ring = h->ring();
    r->hello.ring_id = h->ring_id();
    e->hello = &r->hello;
    return PALM_OK;
}

// From here on the FlatBuffer is one; its numbers are not yet believed.
static palm_err read_root(palm_reader *r, const wire::Envelope *root, palm_envelope *e)
{
    e->kind = static_cast<uint16_t>(root->kind());
    e->hop = root->hop();
    e->handle = root->handle();
    e->sender = root->sender();
    e->seq = root->seq();
    e->body_size = root->body_size();
    if (!view_all(root, e))
        return PALM_EMALFORMED;
    palm_err err = read_dtypes(r, root->dtypes(), e);
    return err ? err : read_hello(r, root->hello(), e);
}

static bool parts_arrived(const palm_envelope *e, const uint64_t *parts, uint32_t n_parts)
{
    return e->n_parts == n_parts && (!n_parts || !memcmp(e->parts, parts, n_parts * sizeof *parts));
}

static void read_plain(const PlainHead *h, const uint8_t *head, palm_envelope *e)
{
    *e = palm_envelope();
    memcpy(&e->kind, head + h->at[KIND], sizeof e->kind);
    memcpy(&e->hop, head + h->at[HOP], sizeof e->hop);
    memcpy(&e->handle, head + h->at[HANDLE], sizeof e->handle);
    memcpy(&e->sender, head + h->at[SENDER], sizeof e->sender);
    memcpy(&e->seq, head + h->at[SEQ], sizeof e->seq);
    memcpy(&e->body_size, head + h->at[BODY_SIZE], sizeof e->body_size);
    e->records = reinterpret_cast<const palm_record *>(head + h->record);
    e->n_records = 1;
}

// *body: where the body begins.
static palm_err read_any(palm_reader *r, const uint8_t *frame, size_t size, palm_envelope *e, size_t *body)
{
    size_t end;
    palm_err err = find_end(frame, size, &end, body);
    if (!err)
        err = check_version(frame, end);
    if (err)
        return err;
    Verifier v = verifier(frame, end);
    if (!wire::VerifySizePrefixedEnvelopeBuffer(v))
        return PALM_EMALFORMED;
    return read_root(r, wire::GetSizePrefixedEnvelope(frame), e);
}

palm_err palm_reader_read(palm_reader *r, const void *frame, size_t size, const uint64_t *parts, uint32_t n_parts,
                          palm_envelope *out)
{
    const uint8_t *bytes = static_cast<const uint8_t *>(frame);
    size_t body = r->plain.size;
    palm_envelope e;
    palm_err err = PALM_OK;
    if (!frame || reinterpret_cast<uintptr_t>(frame) % PALM_ALIGN || (n_parts && !parts))
        return PALM_EINVAL;
    if (n_parts > PALM_MAX_PARTS)
        return PALM_ELIMIT;
    bool known = r->plain.is_like(bytes, size);
    if (known)
        read_plain(&r->plain, bytes, &e);
    else
        err = read_any(r, bytes, size, &e, &body);
    if (err)
        return err;
    if (e.body_size != size - body || !parts_arrived(&e, parts, n_parts))
        return PALM_EMALFORMED;
    e.body = e.body_size ? bytes + body : nullptr;
    err = palmi_envelope_check(&e);
    if (err)
        return err;
    if (!known && is_plain(&e))
        r->plain.keep(bytes, body);
    *out = e;
    return PALM_OK;
}
