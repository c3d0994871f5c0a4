#include "vga/observer.h"

namespace vga {

std::string_view name(Site site) {
  switch (site) {
    case Site::attn_norm:
      return "attn_norm";
    case Site::attn_q:
      return "attn_q";
    case Site::attn_k:
      return "attn_k";
    case Site::attn_v:
      return "attn_v";
    case Site::attn_gate:
      return "attn_gate";
    case Site::q_rotated:
      return "q_rotated";
    case Site::k_rotated:
      return "k_rotated";
    case Site::attn_mixed:
      return "attn_mixed";
    case Site::attn_output:
      return "attn_output";
    case Site::delta_decay:
      return "delta_decay";
    case Site::delta_strength:
      return "delta_strength";
    case Site::delta_mixed:
      return "delta_mixed";
    case Site::delta_output:
      return "delta_output";
    case Site::attn_residual:
      return "attn_residual";
    case Site::ffn_norm:
      return "ffn_norm";
    case Site::experts:
      return "experts";
    case Site::ffn_up:
      return "ffn_up";
    case Site::ffn_mixed:
      return "ffn_mixed";
    case Site::ffn_down:
      return "ffn_down";
    case Site::block:
      return "block";
    case Site::output_norm:
      return "output_norm";
  }
  return "";
}

}  // namespace vga
