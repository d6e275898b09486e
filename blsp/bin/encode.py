"""Stage 1, second half, where `cache_encoder` is on: the frozen encoder's states of every set, for stages 3 and 4 to read.

reads   the encoder, DATA_DIR/SET/{feats.scp,utt2num_frames,feats.json}
writes  DATA_DIR/SET/{states.scp,utt2num_states,states.json} and DATA_DIR/SET/states/*.ark
"""

from __future__ import annotations

from blsp.base import command
from blsp.base.config import load_config, program_arguments, require
from blsp.base.files import fingerprint
from blsp.data.archives import Archives
from blsp.data.data_dir import check_features
from blsp.data.states import NAME, states_settings
from blsp.data.tasks import present_sets

log = command.logger("encode")


def main() -> None:
    args = program_arguments("blsp.bin.encode", __doc__, "ngpu").parse_args()
    config = load_config(args.config, args.overrides)
    require(config, "cache_encoder", "encoder", "encoder_padding", "precision", "train_sets", "dev_sets", "test_sets")
    if not config["cache_encoder"]:
        log.info("cache_encoder is off: encoder states are not kept")
        return
    pending = []
    for name in dict.fromkeys([*config["train_sets"], *config["dev_sets"], *present_sets(args.data_dir, config["test_sets"])]):
        folder = args.data_dir / name
        settings = states_settings(folder, config["encoder"], config["encoder_padding"], config["precision"])
        check_features(folder, config["encoder"])
        archives = Archives(folder, NAME, fingerprint(settings), 0)
        if archives.is_published():
            log.info(f"{folder}: encoder states are there")
        else:
            archives.withdraw()
            pending.append((folder, settings))
    if pending:
        from blsp.model.encoding import encode_all  # loads torch, which a rerun that has nothing to do need not wait for

        command.share_work(encode_all, (pending, config), args.ngpu, args.shard)


if __name__ == "__main__":
    command.run(main)
