#include "learn/context.h"

#include "kernels/kernels.h"

float log2_of(float x) { return kernels().ln(std::max(x, 1.0f)) * 1.44269504f; }

float log2_of(uint32_t x) {
    static const auto table = [] {  // of what is asked for most: counts of events
        std::array<float, 4096> out{};
        for (size_t i = 0; i < out.size(); ++i) out[i] = log2_of(static_cast<float>(i));
        return out;
    }();
    return x < table.size() ? table[x] : log2_of(static_cast<float>(x));
}

namespace {
constexpr int64_t kMostInSession = 15, kNewcomerEvents = 4;

// A weight between two of its knots, the first one at `at`, the last one `knots` - 1 further on.
void between(int at, int knots, float x, std::vector<Feature>* out) {
    const float top = static_cast<float>(knots - 1), y = std::clamp(x, 0.0f, top);
    const int low = std::min(static_cast<int>(y), knots - 2);
    const float share = y - static_cast<float>(low);
    out->push_back({at + low, 1.0f - share});
    out->push_back({at + low + 1, share});
}

// Keeps the newest `most`, newest first.
void keep_newest(const HistoryEntry* e, size_t most, std::vector<const HistoryEntry*>* kept) {
    if (most == 0 || (kept->size() == most && kept->back()->seq > e->seq)) return;
    if (kept->size() == most) kept->pop_back();
    auto at = kept->end();
    while (at != kept->begin() && (*(at - 1))->seq < e->seq) --at;
    kept->insert(at, e);
}
}  // namespace

void Context::look(const ContextSettings& s, const HistoryView& history, const std::vector<HistoryEntry>& later,
                   Moment now) {
    s_ = s;
    history_ = history;
    later_ = &later;
    now_ = now;
    const HistoryEntry* last = this->last();
    session_ = History::session_of(last, now, s.session_gap);
    events_ = last ? last->place() : 0;
    inside_ = last && last->session == session_;
    in_session_ = 0;
    new_.clear();
    latest_.clear();
    before_.clear();
    // One more than sources: of them, the item itself does not count.
    const int64_t latest = std::max(s.bag, s.neighbours ? static_cast<int64_t>(Neighbours::kSources) + 1 : 0);
    const auto take = [&](const HistoryEntry* e) {
        if (in_session(*e))
            ++in_session_;
        else
            keep_newest(e, static_cast<size_t>(s.bag), &before_);
        keep_newest(e, static_cast<size_t>(latest), &latest_);
    };
    for (const HistoryEntry& e : later) {
        const bool is_new = history.find(e.item) == history.n;
        if (is_new && std::find(new_.begin(), new_.end(), e.item) == new_.end()) new_.push_back(e.item);
        if (had(e.item) == &e) take(&e);
    }
    for (const HistoryEntry* e = history.entries; e < history.entries + history.n; ++e)
        if (later.empty() || had(e->item) == e) take(e);
}

UserView Context::view(bool inside) const {
    UserView v{inside, GlobalWeights::kAlpha, inside ? latest_ : before_};
    v.bag.resize(std::min(v.bag.size(), static_cast<size_t>(s_.bag)));
    if (inside) {
        const int64_t s = std::min(in_session_, kMostInSession);
        for (int64_t more = s + 1; more >= 2; more /= 2) ++v.alpha;
    } else if (events_ == 0) {
        v.alpha = GlobalWeights::kStranger;
    } else if (events_ < kNewcomerEvents) {
        v.alpha = GlobalWeights::kNewcomer;
    }
    return v;
}

std::vector<int64_t> Context::sources() const {
    std::vector<int64_t> out;
    if (!s_.neighbours || !inside_) return out;
    for (size_t i = 0; i < std::min(latest_.size(), Neighbours::kSources); ++i) out.push_back(latest_[i]->item);
    return out;
}

std::vector<int64_t> Context::before(int64_t item) const {
    std::vector<int64_t> out;
    if (!s_.neighbours || !inside_) return out;
    for (const HistoryEntry* e : latest_)
        if (in_session(*e) && e->item != item && out.size() < Neighbours::kSources) out.push_back(e->item);
    return out;
}

const HistoryEntry* Context::had(int64_t item) const {
    for (auto e = later_->rbegin(); e != later_->rend(); ++e)
        if (e->item == item) return &*e;
    const int64_t at = history_.find(item);
    return at < history_.n ? &history_.entries[at] : nullptr;
}

void Context::worth(const HistoryEntry& e, const UserView& v, std::vector<Feature>* out) const {
    if (!s_.repeats || (!v.inside && in_session(e))) return;
    const int state = v.inside * GlobalWeights::kState;
    const uint32_t since = events_ + 1 - std::min(e.place(), events_);
    between(state + GlobalWeights::kSince, 16, log2_of(since), out);
    if (now_.time && e.time) {
        const uint32_t seconds = now_.time - std::min(e.time, now_.time);
        between(state + GlobalWeights::kMinutes, 32, log2_of(static_cast<float>(seconds) / 60.0f + 1.0f), out);
    }
    between(state + GlobalWeights::kTimes, 16, 2.0f * log2_of(e.times()), out);
    if (in_session(e)) out->push_back({state + GlobalWeights::kSession, 1.0f});
}

void Context::worth_near(float share, std::vector<Feature>* out) {
    constexpr float kLeast = 0.002f;
    if (share > 0) between(GlobalWeights::kNear, 10, log2_of(share / kLeast + 1.0f), out);
}
