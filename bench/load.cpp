// A load client for gRPC over HTTP/2, in the clear or with TLS, that knows nothing of what it sends. See README.md
// beside it.
//
//   load --target 127.0.0.1:50052 --path /package.Service/Method --messages FILE [--metadata name=value]...
//        [--mode unary|stream|watch] [--connections N] [--streams M] [--depth D] [--rate R] [--seconds S] [--loop]
//        [--within MS] [--expect HEX] [--count FIELD] [--until N] [--open] [--trace FILE] [--tls]
//
// FILE holds messages as gRPC frames them: a zero, the length in four bytes, the message. Each is sent once, in their
// order, unless --loop. The end is one line of JSON.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

using std::string;
using std::string_view;
using std::vector;

namespace {

constexpr size_t FRAME = 5;                 // what precedes a message: a flag, and its length
constexpr int32_t STREAM_WINDOW = 4 << 20;  // bytes that may be on their way to one stream
constexpr int32_t WINDOW = 1 << 30;         // and to one connection
constexpr size_t ENOUGH = 256 << 10;        // bytes to gather before they are written
constexpr int64_t SECOND = 1'000'000'000;
constexpr int64_t PATIENCE = 10 * SECOND;  // for what is still to be answered when the time is up

[[noreturn]] void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    exit(2);
}

int64_t clock_of(clockid_t id) {
    timespec now;
    clock_gettime(id, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

int64_t monotonic() { return clock_of(CLOCK_MONOTONIC); }

uint32_t length_of(const char* frame) {
    uint32_t length;
    memcpy(&length, frame + 1, sizeof length);
    return ntohl(length);
}

// Latencies in nanoseconds, log-linear as HdrHistogram is: exact to a thousandth.
class Histogram {
  public:
    void add(uint64_t value) {
        ++counts_[place(value)];
        ++total_;
        max_ = std::max(max_, value);
    }

    double milliseconds(double share) const {
        uint64_t left = std::max<uint64_t>(1, static_cast<uint64_t>(share * static_cast<double>(total_) + 0.5));
        for (size_t i = 0; i < counts_.size(); ++i) {
            if (counts_[i] >= left) return static_cast<double>(std::min(value(i), max_)) / 1e6;
            left -= counts_[i];
        }
        return static_cast<double>(max_) / 1e6;
    }

  private:
    static constexpr unsigned BITS = 11;
    static constexpr uint64_t HALF = 1 << (BITS - 1);

    static unsigned shift(uint64_t value) {
        unsigned width = 64 - static_cast<unsigned>(__builtin_clzll(value | 1));
        return width > BITS ? width - BITS : 0;
    }
    static size_t place(uint64_t value) { return shift(value) * HALF + (value >> shift(value)); }
    static uint64_t value(size_t place) {
        uint64_t shifted = place < 2 * HALF ? 0 : place / HALF - 1;
        return ((place - shifted * HALF + 1) << shifted) - 1;
    }

    vector<uint64_t> counts_ = vector<uint64_t>((64 - BITS + 2) * HALF);
    uint64_t total_ = 0, max_ = 0;
};

struct Options {
    string target, path, messages, mode = "unary", expect, trace;
    vector<std::pair<string, string>> metadata;
    int connections = 1, streams = 1, depth = 1, count = 0;
    double rate = 0, seconds = 1e9, within = 0;
    uint64_t until = UINT64_MAX;
    bool loop = false, open = false, tls = false;

    bool unary() const { return mode == "unary"; }
    bool watch() const { return mode == "watch"; }
};

string unhexed(string_view digits) {
    string bytes;
    for (size_t i = 0; i + 1 < digits.size(); i += 2)
        bytes += static_cast<char>(std::stoi(string(digits.substr(i, 2)), nullptr, 16));
    return bytes;
}

Options parse(int argc, char** argv) {
    Options o;
    for (int i = 1; i < argc; ++i) {
        string name = argv[i];
        if (name == "--loop" || name == "--open" || name == "--tls") {
            (name == "--loop" ? o.loop : name == "--open" ? o.open : o.tls) = true;
            continue;
        }
        if (++i == argc) fail("%s lacks its value", name.c_str());
        string value = argv[i];
        if (name == "--target") o.target = value;
        else if (name == "--path") o.path = value;
        else if (name == "--messages") o.messages = value;
        else if (name == "--mode") o.mode = value;
        else if (name == "--trace") o.trace = value;
        else if (name == "--expect") o.expect = unhexed(value);
        else if (name == "--connections") o.connections = std::stoi(value);
        else if (name == "--streams") o.streams = std::stoi(value);
        else if (name == "--depth") o.depth = std::stoi(value);
        else if (name == "--count") o.count = std::stoi(value);
        else if (name == "--rate") o.rate = std::stod(value);
        else if (name == "--seconds") o.seconds = std::stod(value);
        else if (name == "--within") o.within = std::stod(value);
        else if (name == "--until") o.until = std::stoull(value);
        else if (name == "--metadata") {
            size_t at = value.find('=');
            if (at == string::npos) fail("--metadata is name=value, not %s", value.c_str());
            o.metadata.emplace_back(value.substr(0, at), value.substr(at + 1));
        } else fail("unknown option %s", name.c_str());
    }
    if (o.target.empty() || o.path.empty() || o.messages.empty()) fail("--target, --path and --messages are needed");
    if (!o.unary() && !o.watch() && o.mode != "stream") fail("--mode is unary, stream or watch");
    return o;
}

// What is sent, and how it went.
struct Load {
    Options options;
    string content;
    vector<string_view> messages;  // with their frames
    size_t next = 0;
    int64_t begun = 0, last = 0, end = 0;
    uint64_t sent = 0, ok = 0, open = 0, answers = 0, events = 0, bytes = 0, ready = 0, complete = 0;
    std::map<string, uint64_t> failures;
    Histogram latencies;
    std::ofstream trace;

    explicit Load(Options given) : options(std::move(given)) {
        std::ifstream file(options.messages, std::ios::binary);
        content.assign(std::istreambuf_iterator<char>(file), {});
        for (size_t at = 0; at + FRAME <= content.size(); at += messages.back().size())
            messages.push_back(string_view(content).substr(at, FRAME + length_of(content.data() + at)));
        if (messages.empty()) fail("no message in %s", options.messages.c_str());
        if (!options.trace.empty()) trace.open(options.trace, std::ios::binary);
    }

    bool left() const { return (options.loop || next < messages.size()) && monotonic() < end; }
    string_view take() { return messages[next++ % messages.size()]; }

    void answered(int64_t intended, const string& failure) {
        last = monotonic();
        latencies.add(static_cast<uint64_t>(std::max<int64_t>(0, last - intended)));
        if (!failure.empty()) ++failures[failure];
        else if (options.within > 0 && static_cast<double>(last - intended) > options.within * 1e6) ++failures["late"];
        else ++ok;
    }

    // Empty for an answer that begins as it should.
    string judged(string_view message) const {
        return message.substr(0, options.expect.size()) == options.expect ? "" : "wrong";
    }
};

// How often a field of length-delimited type stands at the top of a message; 1 where none is asked for.
uint64_t counted(string_view message, int field) {
    if (!field) return 1;
    uint64_t found = 0;
    size_t at = 0;
    auto varint = [&] {
        uint64_t value = 0;
        for (unsigned shift = 0; at < message.size(); shift += 7) {
            auto byte = static_cast<uint8_t>(message[at++]);
            value |= static_cast<uint64_t>(byte & 127) << shift;
            if (byte < 128) break;
        }
        return value;
    };
    while (at < message.size()) {
        uint64_t key = varint();
        switch (key & 7) {
            case 0: varint(); break;
            case 1: at += 8; break;
            case 2: {
                uint64_t length = varint();
                at += length;
                found += (key >> 3) == static_cast<uint64_t>(field);
                break;
            }
            default: at += 4;
        }
    }
    return found;
}

struct Stream {
    std::deque<string_view> sending;  // what is still to be sent, the first of it perhaps in part
    std::deque<int64_t> intended;  // of what is not answered yet
    string received;
    string status = "none", verdict;
    uint64_t events = 0;
    bool traced = false, heard = false, closing = false;
};

class Connection {
  public:
    explicit Connection(Load& load) : load_(load) {
        connect_to(load.options.target);
        nghttp2_session_callbacks* callbacks;
        nghttp2_session_callbacks_new(&callbacks);
        nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
        nghttp2_session_client_new(&session_, callbacks, this);
        nghttp2_session_callbacks_del(callbacks);
        nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
                                             {NGHTTP2_SETTINGS_ENABLE_PUSH, 0}};
        nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, 2);
        nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, WINDOW);
        name_headers();
    }
    Connection(const Connection&) = delete;
    ~Connection() {
        nghttp2_session_del(session_);
        SSL_free(tls_);
        close(socket_);
    }

    int socket() const { return socket_; }
    bool wants_to_write() const { return !out_.empty() || nghttp2_session_want_write(session_); }

    // One more call, or stream, with its first message.
    void begin(int64_t intended) {
        auto* stream = new Stream;
        nghttp2_data_provider provider{{.ptr = stream}, on_read};
        stream->traced = !load_.open && load_.trace.is_open();
        put(*stream, intended);
        int32_t id = nghttp2_submit_request(session_, nullptr, headers_.data(), headers_.size(), &provider, stream);
        if (id < 0) fail("no more streams: %s", nghttp2_strerror(id));
        for (int i = 1; load_.options.mode == "stream" && i < load_.options.depth && load_.left(); ++i) put(*stream, monotonic());
        ++load_.open;
    }

    void write() {
        do {
            const uint8_t* data;
            ssize_t size = 0;
            while (out_.size() < ENOUGH && (size = nghttp2_session_mem_send(session_, &data)) > 0)
                out_.append(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
            if (size < 0) fail("%s", nghttp2_strerror(static_cast<int>(size)));
            if (out_.empty()) return;
            ssize_t gone = sent();
            if (gone <= 0) return;
            out_.erase(0, static_cast<size_t>(gone));
        } while (out_.empty());
    }

    void read() {
        static std::array<uint8_t, 256 << 10> buffer;
        do {
            ssize_t size = come(buffer.data(), buffer.size());
            if (size < 0) return;
            if (size == 0) fail("the server closed the connection");
            ssize_t used = nghttp2_session_mem_recv(session_, buffer.data(), static_cast<size_t>(size));
            if (used < 0) fail("%s", nghttp2_strerror(static_cast<int>(used)));
        } while (tls_ && SSL_pending(tls_));  // which no poll tells of
    }

  private:
    Load& load_;
    nghttp2_session* session_;
    int socket_;
    SSL* tls_ = nullptr;
    string out_;
    vector<nghttp2_nv> headers_;

    void connect_to(const string& target) {
        size_t at = target.rfind(':');
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<uint16_t>(std::stoi(target.substr(at + 1))));
        if (inet_pton(AF_INET, target.substr(0, at).c_str(), &address.sin_addr) != 1) fail("no address: %s", target.c_str());
        socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
        if (connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address)) fail("cannot connect to %s", target.c_str());
        int one = 1;
        setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (load_.options.tls) shake_hands();
        fcntl(socket_, F_SETFL, O_NONBLOCK);
    }

    // Whose certificate it is is not looked at: what is measured is on this machine.
    void shake_hands() {
        static SSL_CTX* context = SSL_CTX_new(TLS_client_method());
        static const unsigned char HTTP2[] = {2, 'h', '2'};
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        tls_ = SSL_new(context);
        SSL_set_alpn_protos(tls_, HTTP2, sizeof HTTP2);
        SSL_set_fd(tls_, socket_);
        if (SSL_connect(tls_) != 1) fail("no TLS: %s", ERR_reason_error_string(ERR_peek_error()));
    }

    // How much of `out_` has gone; nothing, or less, where there is no room.
    ssize_t sent() {
        if (tls_) {
            int size = SSL_write(tls_, out_.data(), static_cast<int>(out_.size()));
            if (size > 0 || SSL_get_error(tls_, size) == SSL_ERROR_WANT_WRITE) return size;
            fail("the connection broke");
        }
        ssize_t size = ::send(socket_, out_.data(), out_.size(), MSG_NOSIGNAL);
        if (size < 0 && errno != EAGAIN) fail("the connection broke: %s", strerror(errno));
        return size;
    }

    // How much has come; -1 where there is nothing yet, 0 at the end.
    ssize_t come(uint8_t* into, size_t room) {
        if (tls_) {
            int size = SSL_read(tls_, into, static_cast<int>(room));
            return size > 0 ? size : SSL_get_error(tls_, size) == SSL_ERROR_WANT_READ ? -1 : 0;
        }
        ssize_t size = ::read(socket_, into, room);
        return size < 0 && errno != EAGAIN ? 0 : size;
    }

    void name_headers() {
        auto add = [&](string_view name, string_view value) {
            headers_.push_back({reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
                                reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
                                NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE});
        };
        add(":method", "POST");
        add(":scheme", load_.options.tls ? "https" : "http");
        add(":path", load_.options.path);
        add(":authority", load_.options.target);
        add("te", "trailers");
        add("content-type", "application/grpc");
        for (auto& [name, value] : load_.options.metadata) add(name, value);
    }

    void put(Stream& stream, int64_t intended) {
        stream.sending.push_back(load_.take());
        stream.intended.push_back(intended);
        ++load_.sent;
    }

    static Stream* of(nghttp2_session* session, int32_t id) {
        return static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, id));
    }

    static ssize_t on_read(nghttp2_session*, int32_t, uint8_t* into, size_t room, uint32_t* flags,
                           nghttp2_data_source* source, void* user) {
        auto& load = static_cast<Connection*>(user)->load_;
        auto& stream = *static_cast<Stream*>(source->ptr);
        size_t done = 0;
        while (done < room && !stream.sending.empty()) {
            auto& first = stream.sending.front();
            size_t size = std::min(room - done, first.size());
            memcpy(into + done, first.data(), size);
            first.remove_prefix(size);
            done += size;
            if (first.empty()) stream.sending.pop_front();
        }
        bool last = load.options.unary() || (load.options.watch() && !load.options.open) || stream.closing;
        if (last && stream.sending.empty()) *flags |= NGHTTP2_DATA_FLAG_EOF;
        else if (!done) return NGHTTP2_ERR_DEFERRED;
        return static_cast<ssize_t>(done);
    }

    static int on_header(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t length,
                         const uint8_t* value, size_t size, uint8_t, void*) {
        auto* stream = of(session, frame->hd.stream_id);
        string_view told(reinterpret_cast<const char*>(name), length);
        string_view given(reinterpret_cast<const char*>(value), size);
        if (stream && told == "grpc-status") stream->status = given;
        if (stream && told == ":status" && given != "200") stream->status = "HTTP " + string(given);
        return 0;
    }

    static int on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
        auto& load = static_cast<Connection*>(user)->load_;
        auto* stream = of(session, frame->hd.stream_id);
        if (frame->hd.type == NGHTTP2_GOAWAY) fail("the server is going away");
        if (!stream || frame->hd.type != NGHTTP2_HEADERS || stream->heard) return 0;
        stream->heard = true;
        ++load.ready;
        return 0;
    }

    static int on_data(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* data, size_t size, void* user) {
        auto* stream = of(session, id);
        if (!stream) return 0;
        auto& self = *static_cast<Connection*>(user);
        self.load_.bytes += size;
        stream->received.append(reinterpret_cast<const char*>(data), size);
        size_t at = 0;
        auto& all = stream->received;
        while (all.size() - at >= FRAME && all.size() - at - FRAME >= length_of(all.data() + at)) {
            uint32_t length = length_of(all.data() + at);
            self.message(id, *stream, string_view(all).substr(at + FRAME, length));
            at += FRAME + length;
        }
        all.erase(0, at);
        return 0;
    }

    void message(int32_t id, Stream& stream, string_view message) {
        ++load_.answers;
        auto& options = load_.options;
        if (options.unary()) stream.verdict = load_.judged(message);
        else if (options.watch()) watched(stream, message);
        else {
            load_.events += counted(message, options.count);
            load_.answered(stream.intended.front(), load_.judged(message));
            stream.intended.pop_front();
            if (load_.left()) put(stream, monotonic());
            else if (stream.intended.empty()) stream.closing = true;
            nghttp2_session_resume_data(session_, id);
        }
    }

    void watched(Stream& stream, string_view message) {
        load_.last = monotonic();
        uint64_t more = counted(message, load_.options.count);
        load_.events += more;
        load_.complete += stream.events < load_.options.until && stream.events + more >= load_.options.until;
        stream.events += more;
        if (!stream.traced) return;
        int64_t now = clock_of(CLOCK_REALTIME);
        auto size = static_cast<uint32_t>(message.size());
        load_.trace.write(reinterpret_cast<char*>(&now), sizeof now).write(reinterpret_cast<char*>(&size), sizeof size);
        load_.trace.write(message.data(), size);
    }

    static int on_close(nghttp2_session* session, int32_t id, uint32_t error, void* user) {
        auto& self = *static_cast<Connection*>(user);
        std::unique_ptr<Stream> stream(of(session, id));
        if (!stream) return 0;
        nghttp2_session_set_stream_user_data(session, id, nullptr);
        --self.load_.open;
        string failure = stream->status == "0" ? stream->verdict : stream->status;
        if (failure == "none") failure = "reset " + std::to_string(error);
        if (self.load_.options.watch() && failure.empty()) failure = "ended";
        for (int64_t intended : stream->intended) self.load_.answered(intended, failure);
        if (self.load_.options.unary() && !self.load_.options.rate && self.load_.left()) self.begin(monotonic());
        return 0;
    }
};

volatile sig_atomic_t stopped = 0;

class Run {
  public:
    explicit Run(Load& load) : load_(load) {
        for (int i = 0; i < load.options.connections; ++i) connections_.push_back(std::make_unique<Connection>(load));
    }

    void go() {
        auto& options = load_.options;
        load_.begun = monotonic();
        load_.end = load_.begun + static_cast<int64_t>(std::min(options.seconds, 1e9) * 1e9);
        if (!options.rate) fill();
        bool told = !options.watch();
        while (!over()) {
            if (options.rate) send_due();
            step();
            if (!told && load_.ready == connections_.size() * static_cast<size_t>(options.streams)) {
                told = true;
                puts("ready");
                fflush(stdout);
            }
        }
    }

  private:
    Load& load_;
    vector<std::unique_ptr<Connection>> connections_;

    bool over() const {
        auto& o = load_.options;
        if (stopped || monotonic() > load_.end + (o.watch() ? 0 : PATIENCE)) return true;
        if (o.watch()) return !load_.open || load_.complete == connections_.size() * static_cast<size_t>(o.streams);
        return !load_.open && !load_.left();
    }

    void fill() {
        for (int i = 0; i < load_.options.streams; ++i)
            for (auto& each : connections_)
                if (load_.left() || load_.options.watch()) each->begin(monotonic());
    }

    // At a fixed rate: what is late counts from when it should have been sent.
    void send_due() {
        while (load_.left() && due() <= monotonic()) connections_[load_.sent % connections_.size()]->begin(due());
    }

    int64_t due() const {
        return load_.begun + static_cast<int64_t>(static_cast<double>(load_.sent) / load_.options.rate * 1e9);
    }

    void step() {
        vector<pollfd> polled;
        for (auto& each : connections_) {
            each->write();
            polled.push_back({each->socket(), static_cast<short>(POLLIN | (each->wants_to_write() ? POLLOUT : 0)), 0});
        }
        int64_t pause = 50'000'000;
        if (load_.options.rate && load_.left()) pause = std::clamp<int64_t>(due() - monotonic(), 0, pause);
        timespec patience{0, pause};
        ppoll(polled.data(), polled.size(), &patience, nullptr);
        for (size_t i = 0; i < polled.size(); ++i)
            if (polled[i].revents & ~POLLOUT) connections_[i]->read();
    }
};

double cpu() {
    rusage used;
    getrusage(RUSAGE_SELF, &used);
    auto seconds = [](timeval each) { return static_cast<double>(each.tv_sec) + static_cast<double>(each.tv_usec) / 1e6; };
    return seconds(used.ru_utime) + seconds(used.ru_stime);
}

void report(const Load& load) {
    auto& at = load.latencies;
    double seconds = static_cast<double>(load.last - load.begun) / 1e9;
    printf("{\"sent\": %lu, \"ok\": %lu, \"answers\": %lu, \"events\": %lu, \"bytes\": %lu, \"seconds\": %.6f, ", load.sent,
           load.ok, load.answers, load.events, load.bytes, std::max(seconds, 0.0));
    printf("\"unanswered\": %lu, \"cpu\": %.6f, \"failures\": {", load.options.watch() ? 0 : load.open, cpu());
    const char* between = "";
    for (auto& [name, count] : load.failures) {
        printf("%s\"%s\": %lu", between, name.c_str(), count);
        between = ", ";
    }
    printf("}, \"ms\": {\"p50\": %.4f, \"p90\": %.4f, \"p99\": %.4f, \"p99.9\": %.4f, \"max\": %.4f}}\n",
           at.milliseconds(0.5), at.milliseconds(0.9), at.milliseconds(0.99), at.milliseconds(0.999), at.milliseconds(1));
}

}  // namespace

int main(int argc, char** argv) {
    signal(SIGTERM, [](int) { stopped = 1; });
    Load load(parse(argc, argv));
    Run(load).go();
    report(load);
}
