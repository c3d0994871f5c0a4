#include "cpu/cpu_backend.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <vector>

#include "cpu/attention.h"
#include "cpu/delta_net.h"
#include "cpu/experts.h"
#include "cpu/share_outputs.h"
#include "cpu/threads.h"
#include "gguf/decode.h"

namespace vga::cpu {
namespace {

class CpuBuffer : public Buffer {
 public:
  CpuBuffer(size_t rows, size_t cols) : Buffer(rows, cols), data_(rows * cols) {}
  float* row(size_t r) { return data_.data() + r * cols(); }
  const float* row(size_t r) const { return data_.data() + r * cols(); }

 private:
  std::vector<float> data_;  // (rows, cols)
};

CpuBuffer& host(Buffer& buffer) {
  return static_cast<CpuBuffer&>(buffer);
}
const CpuBuffer& host(const Buffer& buffer) {
  return static_cast<const CpuBuffer&>(buffer);
}
const float* floats(const Tensor& vector) {
  return reinterpret_cast<const float*>(vector.data);
}

class CpuBackend : public Backend {
 public:
  CpuBackend(size_t n_threads, const Kernels& kernels)
      : kernels_(kernels),
        threads_(n_threads),
        attention_(kernels, threads_),
        delta_net_(kernels, threads_),
        experts_(kernels, threads_) {}

  std::string description() const override {
    return std::string("cpu ") + kernels_.name + ", " + std::to_string(threads_.size()) +
           (threads_.size() == 1 ? " thread" : " threads");
  }

  std::unique_ptr<Buffer> new_buffer(size_t rows, size_t cols) override {
    return std::make_unique<CpuBuffer>(rows, cols);
  }
  std::unique_ptr<Cache> new_cache(const CacheShape& shape) override {
    return std::make_unique<CpuCache>(shape);
  }

  void copy_slot(Cache& cache, size_t from_slot, size_t to_slot, int64_t length) override {
    const auto& c = static_cast<const CpuCache&>(cache);
    for (const auto& [first, n] : c.shape().pages_before(length)) {
      std::copy_n(c.keys(from_slot, first, 0, 0), n * c.whole_page_bytes(),
                  c.keys(to_slot, first, 0, 0));
    }
  }

  std::unique_ptr<State> new_state(const StateShape& shape) override {
    return std::make_unique<CpuState>(shape);
  }
  void copy_state(const State& from, size_t from_slot, State& to, size_t to_slot) override {
    const StateShape& shape = from.shape();
    const float* source = static_cast<const CpuState&>(from).slot(from_slot);
    std::copy_n(source, shape.n_layers * shape.n_floats(),
                static_cast<const CpuState&>(to).slot(to_slot));
  }

  void begin(const Batch& batch) override {
    batch_ = batch;
    n_rows_ = batch.rows.size();
    delta_net_.begin(batch);
  }

  void embed(const Tensor& table, float scale, const Tensor* positions, Buffer& x) override {
    std::vector<float> position(positions != nullptr ? x.cols() : 0);
    for (size_t r = 0; r < n_rows_; ++r) {
      const BatchRow& row = batch_.rows[r];
      const std::span<float> out(host(x).row(r), x.cols());
      decode_row(table.type, table.row(static_cast<size_t>(row.token)), out);
      if (scale != 1) kernels_.scale(out.data(), scale, 0, out.size());
      if (positions == nullptr) continue;
      decode_row(positions->type, positions->row(static_cast<size_t>(row.position)), position);
      kernels_.add(out.data(), position.data(), 1, out.size());
    }
  }

  void norm(const Buffer& x, const Norm& w, NormKind kind, float eps, Buffer& out) override {
    const size_t width = w.weight.cols;
    each_row(x.cols(), [&](size_t r) {
      for (size_t i = 0; i < x.cols(); i += width) {
        const float* from = host(x).row(r) + i;
        float* to = host(out).row(r) + i;
        if (kind == NormKind::rms) {
          kernels_.rms_norm(from, floats(w.weight), width, eps, to);
        } else {
          kernels_.layer_norm(from, floats(w.weight), floats(w.bias), width, eps, to);
        }
      }
    });
  }

  void project(const Buffer& x, std::span<const Projection> projections) override {
    for (Prepared& form : prepared_) form.valid = false;
    for (const Projection& p : projections) prepare(host(x), p.linear.weight.type);
    reduce(host(x), projections);
    share_outputs(
        threads_, projections.size(), x.cols() * n_rows_,
        [&](size_t i) { return projections[i].linear.weight.rows; },
        [&](size_t i, size_t first, size_t last) {
          project_rows(projections[i], changes_[i], first, last);
        });
  }

  void rope(Buffer& x, const RopeSpec& spec) override {
    rotate(host(x), batch_.angles[spec.table], spec);
  }

  void rope_kept(const Buffer& q, const RopeSpec& spec, Buffer& out) override {
    std::copy_n(host(q).row(0), n_rows_ * q.cols(), host(out).row(0));
    rotate(host(out), batch_.kept_angles[spec.table], spec);
  }

  void write_cache(Cache& cache, size_t layer, const Buffer& k, const Buffer& v,
                   const Buffer* gate) override {
    const CpuCache& c = static_cast<const CpuCache&>(cache);
    const CacheShape& shape = c.shape();
    const size_t head_dim = shape.head_dim;
    if (gate != nullptr) gated_.resize(std::max(gated_.size(), n_rows_ * v.cols()));
    each_row(2 * k.cols(), [&](size_t r) {
      const float* values = host(v).row(r);
      if (gate != nullptr) {
        float* gated = gated_.data() + r * v.cols();
        std::copy_n(values, v.cols(), gated);
        apply_gate({gated, v.cols()}, {host(*gate).row(r), gate->cols()});
        values = gated;
      }
      const BatchRow& row = batch_.rows[r];
      const size_t page = shape.page_of(row.position);
      const size_t index = static_cast<size_t>(row.position) % page_positions;
      for (size_t head = 0; head < shape.n_kv_heads; ++head) {
        kernels_.write_key(shape.type, host(k).row(r) + head * head_dim, head_dim,
                           c.keys(row.slot, page, layer, head), index);
        kernels_.write_value(shape.type, values + head * head_dim, head_dim,
                             c.values(row.slot, page, layer, head), index);
      }
    });
  }

  void attend(const Buffer& q, const Buffer* q_kept, const Cache& cache, size_t layer,
              const AttendSpec& spec, const Buffer* gate, Buffer& out) override {
    const CpuCache& c = static_cast<const CpuCache&>(cache);
    attention_.run(batch_, c, layer,
                   {.n_heads = q.cols() / c.shape().head_dim,
                    .q = host(q).row(0),
                    .q_kept = q_kept != nullptr ? host(*q_kept).row(0) : nullptr,
                    .gate = gate != nullptr ? host(*gate).row(0) : nullptr,
                    .n_gates = gate != nullptr ? gate->cols() : 0,
                    .spec = spec},
                   host(out).row(0));
  }

  void activate(Buffer& x, const Buffer* up, Activation kind) override {
    each_row(8 * x.cols(), [&](size_t r) {
      kernels_.activate(kind, host(x).row(r), up != nullptr ? host(*up).row(r) : nullptr, x.cols());
    });
  }

  void add(Buffer& x, const Buffer& y, float factor) override {
    each_row(x.cols(),
             [&](size_t r) { kernels_.add(host(x).row(r), host(y).row(r), factor, x.cols()); });
  }

  void convolve(Buffer& x, const Tensor& taps, State& state, size_t layer) override {
    delta_net_.convolve(host(x).row(0), taps, static_cast<CpuState&>(state), layer);
  }

  void decay(Buffer& x, const Tensor& bias, const Tensor& scale) override {
    each_row(64 * x.cols(), [&](size_t r) {
      float* row = host(x).row(r);
      for (size_t i = 0; i < x.cols(); ++i) {
        const double shifted = double{row[i]} + double{floats(bias)[i]};
        // log(1 + e^x), in a form that no x is too large for.
        const double softplus = std::max(shifted, 0.0) + std::log1p(std::exp(-std::fabs(shifted)));
        row[i] = static_cast<float>(std::exp(double{floats(scale)[i]} * softplus));
      }
    });
  }

  void delta_rule(Buffer& qkv, const Buffer& decay, const Buffer& strength, State& state,
                  size_t layer, Buffer& out) override {
    delta_net_.run(host(qkv).row(0), host(decay).row(0), host(strength).row(0),
                   static_cast<CpuState&>(state), layer, host(out).row(0));
  }

  void route(const Buffer& logits, const Tensor& choice_bias, const Experts& experts,
             Buffer& out) override {
    each_row(16 * logits.cols() * experts.n_used, [&](size_t r) {
      ExpertOps::route(host(logits).row(r), choice_bias ? floats(choice_bias) : nullptr, experts,
                       host(out).row(r));
    });
  }

  void project_experts(const Buffer& x, const Buffer& routed,
                       std::span<const ExpertProjection> projections) override {
    const size_t n_used = routed.cols() / 2;
    std::vector<ExpertOps::Product> products;
    for (const auto& [weight, out] : projections) {
      products.push_back({weight, host(out).row(0), out.cols() / n_used});
    }
    experts_.project({host(x).row(0), n_rows_, x.cols()},
                     {host(routed).row(0), n_rows_, routed.cols()}, projections[0].weight.cols,
                     products);
  }

  void mix_experts(const Buffer& y, const Buffer& routed, Buffer& out) override {
    const size_t n_used = routed.cols() / 2;
    each_row(n_used * out.cols(), [&](size_t r) {
      float* sum = host(out).row(r);
      std::fill_n(sum, out.cols(), 0.f);
      for (size_t i = 0; i < n_used; ++i) {
        kernels_.add(sum, host(y).row(r) + i * out.cols(), host(routed).row(r)[n_used + i],
                     out.cols());
      }
    });
  }

  void scale_rows(Buffer& x, const Buffer& factors) override {
    each_row(x.cols(),
             [&](size_t r) { kernels_.scale(host(x).row(r), *host(factors).row(r), 0, x.cols()); });
  }

  void keep_wanted(const Buffer& x, Buffer& out) override {
    for (size_t i = 0; i < batch_.wanted.size(); ++i) {
      std::copy_n(host(x).row(batch_.wanted[i]), x.cols(), host(out).row(i));
    }
    n_rows_ = batch_.wanted.size();
  }

  void keep_rows(const Buffer& x, size_t first, size_t n, Buffer& out) override {
    std::copy_n(host(x).row(first), n * x.cols(), host(out).row(0));
    n_rows_ = n;
  }

  void read(const Buffer& x, std::span<float> out) override {
    assert(out.size() == n_rows_ * x.cols());
    std::copy_n(host(x).row(0), out.size(), out.data());
  }

  void likeliest(const Buffer& x, size_t k, std::span<Candidate> out) override {
    assert(out.size() == n_rows_ * k);
    for (size_t r = 0; r < n_rows_; ++r) {
      find_likeliest({host(x).row(r), x.cols()}, out.subspan(r * k, k));
    }
  }

  void write(Buffer& x, std::span<const float> in) override {
    assert(in.size() == n_rows_ * x.cols());
    std::ranges::copy(in, host(x).row(0));
  }

 private:
  template <class Body>
  void each_row(size_t work, Body&& body) {
    threads_.run(n_rows_, grain_for(work), [&](size_t begin, size_t end, size_t) {
      for (size_t r = begin; r < end; ++r) body(r);
    });
  }

  /// Activations in the form in which plain, or quantized, weights are multiplied by them.
  struct Prepared {
    std::vector<float> x;
    bool valid = false;  // for the project() in progress
  };

  Prepared& prepared(DType type) { return prepared_[is_plain(type) ? 0 : 1]; }

  void prepare(const CpuBuffer& x, DType type) {
    Prepared& form = prepared(type);
    if (form.valid) return;
    form.x.resize(std::max(form.x.size(), prepared_size(n_rows_, x.cols())));
    const size_t groups = grain_for(x.cols() * prepare_group);
    threads_.run(n_rows_, groups * prepare_group, [&](size_t begin, size_t end, size_t) {
      kernels_.prepare(type, x.row(0), begin, end, x.cols(), form.x.data());
    });
    form.valid = true;
  }

  /// x as the low-rank change of a projection sees it.
  struct Reduced {
    std::vector<float> x;         // (rows, rank) a x
    std::vector<float> prepared;  // the same, for b
  };

  /// Fills changes_ for the projections that have one. Of few rows this is too little to share out.
  void reduce(const CpuBuffer& x, std::span<const Projection> projections) {
    changes_.resize(std::max(changes_.size(), projections.size()));
    const auto rank = [&](size_t i) { return projections[i].linear.change.a.rows; };
    for (size_t i = 0; i < projections.size(); ++i) {
      if (rank(i) == 0) continue;
      prepare(x, projections[i].linear.change.a.type);
      Reduced& reduced = changes_[i];
      reduced.x.resize(std::max(reduced.x.size(), n_rows_ * rank(i)));
      reduced.prepared.resize(std::max(reduced.prepared.size(), prepared_size(n_rows_, rank(i))));
    }
    share_outputs(threads_, projections.size(), x.cols() * n_rows_, rank,
                  [&](size_t i, size_t first, size_t last) {
                    const Tensor& a = projections[i].linear.change.a;
                    kernels_.project(a, first, last, prepared(a.type).x.data(), n_rows_,
                                     changes_[i].x.data() + first, rank(i), false);
                  });
    for (size_t i = 0; i < projections.size(); ++i) {
      if (rank(i) == 0) continue;
      kernels_.prepare(projections[i].linear.change.b.type, changes_[i].x.data(), 0, n_rows_,
                       rank(i), changes_[i].prepared.data());
    }
  }

  /// Outputs [first, last) of one projection for all rows, while they are in the cache.
  void project_rows(const Projection& p, const Reduced& reduced, size_t first, size_t last) {
    const auto& [w, bias, change] = p.linear;
    float* products = host(p.out).row(0) + first;
    kernels_.project(w, first, last, prepared(w.type).x.data(), n_rows_, products, p.out.cols(),
                     false);
    if (change) {
      kernels_.project(change.b, first, last, reduced.prepared.data(), n_rows_, products,
                       p.out.cols(), true);
    }
    const bool scales = p.scale != 1 || p.cap != 0;
    if (!bias && !scales) return;
    for (size_t r = 0; r < n_rows_; ++r) {
      float* out = host(p.out).row(r) + first;
      if (bias) kernels_.add(out, floats(bias) + first, 1, last - first);
      if (scales) kernels_.scale(out, p.scale, p.cap, last - first);
    }
  }

  void rotate(CpuBuffer& x, std::span<const float> angles, const RopeSpec& spec) {
    const size_t n_pairs = angles.size() / n_rows_ / 2;
    each_row(x.cols(), [&](size_t r) {
      const float* cos_sin = angles.data() + r * n_pairs * 2;
      for (size_t i = 0; i < x.cols(); i += spec.head_dim) {
        kernels_.rope(x.row(r) + i, cos_sin, n_pairs, spec.half_split);
      }
    });
  }

  const Kernels& kernels_;
  ThreadPool threads_;
  Attention attention_;
  DeltaNetOps delta_net_;
  ExpertOps experts_;
  std::array<Prepared, 2> prepared_;  // for plain and for quantized weights
  std::vector<Reduced> changes_;      // of the projections in progress
  std::vector<float> gated_;          // (rows, n_kv_heads * head_dim) values times their gates
  Batch batch_;
  size_t n_rows_ = 0;  // of the batch, or those that keep_wanted() or keep_rows() left
};

}  // namespace

std::unique_ptr<Backend> new_backend(size_t n_threads, const Kernels& kernels) {
  return std::make_unique<CpuBackend>(n_threads == 0 ? default_threads() : n_threads, kernels);
}

}  // namespace vga::cpu
