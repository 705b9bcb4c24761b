#include "kernels/csrc/cpu/handlers.h"

#include <exception>

#include "kernels/csrc/cpu/arguments.h"
#include "kernels/csrc/cpu/huge_pages.h"
#include "kernels/csrc/cpu/lookup.h"
#include "kernels/csrc/cpu/update.h"
#include "kernels/csrc/exceptions.h"

// Names of the arguments that describe and hold a batch, for the signature of every handler.
#define EMBERAY_BATCH_PARAMETERS                                                               \
  ffi::ThreadPool pool, int64_t sparsecores, int64_t per_device, int64_t samples_per_core,     \
      int64_t rows_per_core, bool minibatches, Integers pointers, Integers ids, Integers samples, \
      Floats gains, Integers num_minibatches
#define EMBERAY_BATCH                                                                      \
  sparsecores, per_device, samples_per_core, rows_per_core, minibatches, pointers, ids, samples, \
      gains, num_minibatches
#define EMBERAY_RETURN_IF_WRONG(...)                            \
  if (ffi::Error error = (__VA_ARGS__); error.failure()) return error

namespace emberay::cpu {
namespace {

auto bind_pool() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }

auto bind_batch() {
  return bind_pool()
      .Attr<int64_t>("sparsecores")
      .Attr<int64_t>("per_device")
      .Attr<int64_t>("samples_per_core")
      .Attr<int64_t>("rows_per_core")
      .Attr<bool>("minibatches")
      .Arg<Integers>()
      .Arg<Integers>()
      .Arg<Integers>()
      .Arg<Floats>()
      .Arg<Integers>();
}

// Errors of the language, of which running out of memory is the one to expect, stay in the call.
template <typename Body>
ffi::Error guarded(const Body& body) {
  prepare_for_exceptions();
  try {
    return body();
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("emberay: ") + error.what());
  }
}

Rows as_rows(const Matrix& matrix) {
  return {matrix.typed_data(), rows_of(matrix), width_of(matrix)};
}

ffi::Error lookup(EMBERAY_BATCH_PARAMETERS, Matrix table, ffi::Result<Matrix> out) {
  return guarded([&]() -> ffi::Error {
    const Batch batch(EMBERAY_BATCH);
    EMBERAY_RETURN_IF_WRONG(batch.check());
    EMBERAY_RETURN_IF_WRONG(same("number of devices", batch.layout.devices(), 1));
    EMBERAY_RETURN_IF_WRONG(
        same("rows of the table", rows_of(table), rows_per_core * batch.layout.per_device));
    EMBERAY_RETURN_IF_WRONG(same("rows of the result", rows_of(*out), batch.layout.samples()));
    EMBERAY_RETURN_IF_WRONG(same("columns of the result", width_of(*out), width_of(table)));
    use_huge_pages(table.typed_data(), table.element_count());
    Workers workers(pool);
    look_up(batch.layout, batch.buffers, as_rows(table), out->typed_data(), workers);
    return ffi::Error::Success();
  });
}

ffi::Error requests(EMBERAY_BATCH_PARAMETERS, ffi::Result<ffi::BufferR2<ffi::S32>> out) {
  return guarded([&]() -> ffi::Error {
    const Batch batch(EMBERAY_BATCH);
    EMBERAY_RETURN_IF_WRONG(batch.check());
    EMBERAY_RETURN_IF_WRONG(
        same("blocks of requests", out->dimensions()[0], batch.layout.devices()));
    Workers workers(pool);
    write_requests(batch.layout, batch.buffers, out->dimensions()[1], out->typed_data(), workers);
    return ffi::Error::Success();
  });
}

ffi::Error read(ffi::ThreadPool pool, Integers rows, Matrix table, ffi::Result<Matrix> out) {
  return guarded([&]() -> ffi::Error {
    EMBERAY_RETURN_IF_WRONG(same("rows of the result", rows_of(*out), rows.element_count()));
    EMBERAY_RETURN_IF_WRONG(same("columns of the result", width_of(*out), width_of(table)));
    use_huge_pages(table.typed_data(), table.element_count());
    Workers workers(pool);
    read_rows(rows.typed_data(), rows_of(*out), as_rows(table), out->typed_data(), workers);
    return ffi::Error::Success();
  });
}

ffi::Error combine(EMBERAY_BATCH_PARAMETERS, Blocks answers, ffi::Result<Matrix> out) {
  return guarded([&]() -> ffi::Error {
    const Batch batch(EMBERAY_BATCH);
    EMBERAY_RETURN_IF_WRONG(batch.check());
    const auto shape = answers.dimensions();
    EMBERAY_RETURN_IF_WRONG(same("blocks of answers", shape[0], batch.layout.devices()));
    EMBERAY_RETURN_IF_WRONG(same("rows of the result", rows_of(*out), batch.layout.samples()));
    EMBERAY_RETURN_IF_WRONG(same("columns of the result", width_of(*out), shape[2]));
    Workers workers(pool);
    combine_answers(batch.layout, batch.buffers,
                    {answers.typed_data(), shape[0] * shape[1], shape[2]}, out->typed_data(),
                    workers);
    return ffi::Error::Success();
  });
}

ffi::Error row_gradients(EMBERAY_BATCH_PARAMETERS, Matrix gradients,
                         ffi::Result<ffi::BufferR2<ffi::S32>> rows, ffi::Result<Blocks> sums) {
  return guarded([&]() -> ffi::Error {
    const Batch batch(EMBERAY_BATCH);
    EMBERAY_RETURN_IF_WRONG(batch.check());
    const auto shape = sums->dimensions();
    const int64_t capacity = shape[1], width = width_of(gradients);
    EMBERAY_RETURN_IF_WRONG(same("blocks of rows", rows->dimensions()[0], batch.layout.devices()));
    EMBERAY_RETURN_IF_WRONG(same("blocks of sums", shape[0], batch.layout.devices()));
    EMBERAY_RETURN_IF_WRONG(same("rows of a block", rows->dimensions()[1], capacity));
    EMBERAY_RETURN_IF_WRONG(same("columns of the sums", shape[2], width));
    EMBERAY_RETURN_IF_WRONG(same("gradients", rows_of(gradients), batch.layout.samples()));
    Workers workers(pool);
    const auto parts = group_entries(batch.layout, batch.buffers, workers);
    std::vector<int64_t> places = places_of_parts(batch.layout, parts), ends(parts.size());
    for (size_t p = 0; p < parts.size(); ++p) {
      const int64_t block = static_cast<int64_t>(p) / batch.layout.per_device * capacity;
      places[p] += block;
      ends[p] = block + capacity;
    }
    write_sums(parts, places, ends, gradients.typed_data(), width, shape[0] * capacity,
               rows->typed_data(), sums->typed_data(), workers);
    return ffi::Error::Success();
  });
}

ffi::Error merge_rows(ffi::ThreadPool pool, int64_t device_rows, Integers rows, Matrix gradients,
                      ffi::Result<Integers> unique, ffi::Result<Matrix> sums) {
  return guarded([&]() -> ffi::Error {
    const int64_t room = rows_of(*sums), width = width_of(gradients);
    EMBERAY_RETURN_IF_WRONG(same("gradients", rows_of(gradients), rows.element_count()));
    EMBERAY_RETURN_IF_WRONG(same("rows of the result", unique->element_count(), room));
    EMBERAY_RETURN_IF_WRONG(same("columns of the sums", width_of(*sums), width));
    Workers workers(pool);
    const auto parts = group_rows(rows.typed_data(), rows.element_count(), device_rows);
    write_sums(parts, {0}, {room}, gradients.typed_data(), width, room, unique->typed_data(),
               sums->typed_data(), workers);
    return ffi::Error::Success();
  });
}

ffi::Error update(EMBERAY_BATCH_PARAMETERS, int64_t optimizer, int64_t embedding_dim,
                  Matrix gradients, Floats hyperparameters, Matrix table, ffi::RemainingArgs slots,
                  ffi::Result<Matrix> new_table, ffi::RemainingRets new_slots) {
  return guarded([&]() -> ffi::Error {
    const Batch batch(EMBERAY_BATCH);
    EMBERAY_RETURN_IF_WRONG(batch.check());
    EMBERAY_RETURN_IF_WRONG(same("number of devices", batch.layout.devices(), 1));
    EMBERAY_RETURN_IF_WRONG(
        same("rows of the table", rows_of(table), rows_per_core * batch.layout.per_device));
    EMBERAY_RETURN_IF_WRONG(same("gradients", rows_of(gradients), batch.layout.samples()));
    EMBERAY_RETURN_IF_WRONG(same("columns of gradients", width_of(gradients), width_of(table)));
    Variables variables;
    EMBERAY_RETURN_IF_WRONG(take_variables(table, new_table, slots, new_slots, hyperparameters,
                                           optimizer, embedding_dim, variables));
    Workers workers(pool);
    update_rows(group_entries(batch.layout, batch.buffers, workers), gradients.typed_data(),
                variables, static_cast<Optimizer>(optimizer), workers);
    return ffi::Error::Success();
  });
}

ffi::Error update_given(ffi::ThreadPool pool, int64_t optimizer, int64_t embedding_dim,
                        Integers rows, Matrix gradients, Floats hyperparameters, Matrix table,
                        ffi::RemainingArgs slots, ffi::Result<Matrix> new_table,
                        ffi::RemainingRets new_slots) {
  return guarded([&]() -> ffi::Error {
    EMBERAY_RETURN_IF_WRONG(same("gradients", rows_of(gradients), rows.element_count()));
    EMBERAY_RETURN_IF_WRONG(same("columns of gradients", width_of(gradients), width_of(table)));
    Variables variables;
    EMBERAY_RETURN_IF_WRONG(take_variables(table, new_table, slots, new_slots, hyperparameters,
                                           optimizer, embedding_dim, variables));
    Workers workers(pool);
    update_rows(group_rows(rows.typed_data(), rows.element_count(), rows_of(table)),
                gradients.typed_data(), variables, static_cast<Optimizer>(optimizer), workers);
    return ffi::Error::Success();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(emberay_lookup, lookup, bind_batch().Arg<Matrix>().Ret<Matrix>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(emberay_requests, requests,
                              bind_batch().Ret<ffi::BufferR2<ffi::S32>>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(emberay_read_rows, read,
                              bind_pool().Arg<Integers>().Arg<Matrix>().Ret<Matrix>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(emberay_combine, combine, bind_batch().Arg<Blocks>().Ret<Matrix>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    emberay_row_gradients, row_gradients,
    bind_batch().Arg<Matrix>().Ret<ffi::BufferR2<ffi::S32>>().Ret<Blocks>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(emberay_merge_rows, merge_rows,
                              bind_pool()
                                  .Attr<int64_t>("device_rows")
                                  .Arg<Integers>()
                                  .Arg<Matrix>()
                                  .Ret<Integers>()
                                  .Ret<Matrix>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(emberay_update, update,
                              bind_batch()
                                  .Attr<int64_t>("optimizer")
                                  .Attr<int64_t>("embedding_dim")
                                  .Arg<Matrix>()
                                  .Arg<Floats>()
                                  .Arg<Matrix>()
                                  .RemainingArgs()
                                  .Ret<Matrix>()
                                  .RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(emberay_update_rows, update_given,
                              bind_pool()
                                  .Attr<int64_t>("optimizer")
                                  .Attr<int64_t>("embedding_dim")
                                  .Arg<Integers>()
                                  .Arg<Matrix>()
                                  .Arg<Floats>()
                                  .Arg<Matrix>()
                                  .RemainingArgs()
                                  .Ret<Matrix>()
                                  .RemainingRets());

}  // namespace emberay::cpu
