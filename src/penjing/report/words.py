"""Every word of a report, English and Chinese side by side.

A phrase may have places in braces; both languages have the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
Words = Callable[[str], str]  # from a phrase's name to its text


class Phrase(NamedTuple):
    """One meaning, in each language."""

    en: str
    zh: str


def words(language: Language) -> Words:
    """The phrases of a language, by name. The function raises KeyError for a name that is not in PHRASES."""

    def say(name: str) -> str:
        return str(getattr(PHRASES[name], language))

    return say


def known(say: Words, prefix: str, name: str) -> str:
    """The phrase `prefix.name`, or the name itself where there is none: parts that a search named freely."""
    return say(f"{prefix}.{name}") if f"{prefix}.{name}" in PHRASES else name


PHRASES: dict[str, Phrase] = {
    "colon": Phrase(": ", "："),
    "stop": Phrase(". ", "。"),
    "kicker": Phrase("Penjing report", "盆景报告"),
    "title": Phrase("{model}, made smaller", "{model}：瘦身之后"),
    "title.infeasible": Phrase("{model}: a budget out of reach", "{model}：预算无法达到"),
    "seal.kept": Phrase("kept", "守约"),
    "seal.infeasible": Phrase("not kept", "未守"),
    "seal.kept.long": Phrase("The budget is kept", "预算已守住"),
    "seal.infeasible.long": Phrase("The budget cannot be kept", "预算无法守住"),
    "claim.kept": Phrase(
        "At {size} of its size, the perplexity of {model} is at most {loss} higher than before, "
        "with {confidence} confidence.",
        "{model} 缩小到原来的 {size}；以 {confidence} 的置信度，困惑度的上升不超过 {loss}。",
    ),
    "claim.better": Phrase(
        "At {size} of its size, the perplexity of {model} is lower than before, by at least {loss}, "
        "with {confidence} confidence.",
        "{model} 缩小到原来的 {size}；以 {confidence} 的置信度，困惑度反而至少降低 {loss}。",
    ),
    "claim.infeasible": Phrase(
        "No version of {model} was found that keeps this budget. What binds is {limit}.",
        "没有找到守得住这份预算的 {model}。卡住的是{limit}。",
    ),
    "claim.nearest": Phrase(
        "With everything else as asked, the nearest that can be kept is {nearest}.",
        "其余要求不变时，能守住的最近预算是{nearest}。",
    ),
    "claim.or": Phrase(", or ", "，或"),
    "claim.size": Phrase("a size of at most {value}", "大小至多 {value}"),
    "claim.loss": Phrase("a rise of perplexity of at most {value}", "困惑度上升至多 {value}"),
    "claim.throughput": Phrase("a throughput of at least {value}", "吞吐量至少 {value}"),
    "claim.latency": Phrase("a time per token of at most {value}", "每词元时间至多 {value}"),
    "claim.memory": Phrase("a peak of memory of at most {value}", "内存峰值至多 {value}"),
    "claim.cost": Phrase("a price of at most {value} a million tokens", "每百万词元价格至多 {value}"),
    "claim.explained": Phrase(
        "Perplexity says how much a text surprises a model; lower is better. What is claimed is not the "
        "average but an upper bound, from differences measured token by token on {tokens} tokens{unseen}.",
        "困惑度表示文本让模型感到多意外，越低越好。这里承诺的不是平均值，而是置信上界，"
        "由 {tokens} 个词元{unseen}上逐个测得的差异得出。",
    ),
    "claim.summary": Phrase(
        "On average perplexity rises by {mean}; with confidence by at most {upper}.",
        "困惑度平均上升 {mean}；上界 {upper}。",
    ),
    "claim.drawn": Phrase(
        "The claim, drawn to scale: the dot is the mean, the bar ends at the bound, and the tinted field is "
        "what the budget allows.",
        "按比例画出的结论：圆点为均值，线段止于上界，浅色区域是预算所允许的范围。",
    ),
    "claim.unseen": Phrase(" of text that no choice had seen", "（未参与任何挑选的文本）"),
    "caution": Phrase(
        "Caution: predictions changed far more (KL divergence) than this text can show (loss). It is unlike "
        "what the model knows; measure on text of the kind that it will serve.",
        "注意：预测的变化（KL 散度）远大于这份文本所能反映的损失。它与模型所熟悉的文本不同；"
        "请在实际要服务的那类文本上测量。",
    ),
    "limit": Phrase("Limit", "限制"),
    "limit.streams": Phrase("{name}, {streams} streams", "{name}，{streams} 路"),
    "limit.asked": Phrase("asked", "要求"),
    "limit.found": Phrase("found", "实测"),
    "limit.nearest": Phrase("nearest", "最近可行"),
    "limit.kept": Phrase("kept", "守住"),
    "limit.missed": Phrase("missed", "未守"),
    "limit.binds": Phrase("binds", "卡在此处"),
    "limit.size": Phrase("Size", "大小"),
    "limit.loss": Phrase("Rise of perplexity", "困惑度上升"),
    "limit.throughput": Phrase("Throughput", "吞吐量"),
    "limit.latency": Phrase("Time per token", "每词元时间"),
    "limit.memory": Phrase("Peak memory", "内存峰值"),
    "limit.cost": Phrase("Price of a million tokens", "每百万词元价格"),
    "at.most": Phrase("at most {value}", "至多 {value}"),
    "at.least": Phrase("at least {value}", "至少 {value}"),
    "unit.rate": Phrase("{value}\u00a0tokens/s", "{value}\u00a0词元/秒"),
    "before": Phrase("before", "之前"),
    "after": Phrase("after", "之后"),
    "change": Phrase("change", "变化"),
    "compared": Phrase("Before and after", "前后对照"),
    "sides.caption": Phrase(
        "Both sides run in the engine that serves: the checkpoint with its own weights, fp32 activations and "
        "an unquantized cache; the artifact as it is served. Speeds are of one request at a time.",
        "两边都在真正提供服务的引擎中运行：检查点使用自己的权重、fp32 激活与未量化的缓存；"
        "产物则与上线时完全一致。速度为一次一个请求。",
    ),
    "sides.bytes": Phrase("Tensors", "张量"),
    "sides.perplexity": Phrase("Perplexity", "困惑度"),
    "sides.prefill": Phrase("Reading a prompt, tokens/s", "读提示，词元/秒"),
    "sides.decode": Phrase("Writing an answer, tokens/s", "写回答，词元/秒"),
    "sides.ttft": Phrase("Time to first token", "首词元时间"),
    "sides.memory": Phrase("Peak memory of serving", "服务时内存峰值"),
    "frontier": Phrase("The frontier", "前沿"),
    "frontier.caption": Phrase(
        "Each mark is one way to make the model smaller; further left is smaller, further down is better. "
        "A filled mark stands at the upper bound of its loss, its whisker reaches down to the mean. "
        "The tinted field is what the budget allows.",
        "每个点是一种缩小模型的方法：越靠左越小，越靠下越好。实心点位于损失的置信上界，细线向下延伸到均值。"
        "浅色区域是预算所允许的范围。",
    ),
    "frontier.text": Phrase(
        " Measured on the text to choose by, {name}, {tokens} tokens; the claim above is from other text.",
        "测于用来挑选的文本 {name}（{tokens} 个词元）；上面的结论出自另外的文本。",
    ),
    "frontier.text.only": Phrase(" Measured on {name}, {tokens} tokens.", "测于 {name}（{tokens} 个词元）。"),
    "frontier.summary": Phrase(
        "{count} candidates by size and by rise of perplexity. The chosen one has {size} of the size.",
        "{count} 个候选的大小与困惑度上升。所选者为原大小的 {size}。",
    ),
    "frontier.summary.none": Phrase(
        "{count} candidates by size and by rise of perplexity; none is within the budget.",
        "{count} 个候选的大小与困惑度上升；没有一个在预算之内。",
    ),
    "axis.size": Phrase("size, % of the checkpoint", "大小，占原检查点的 %"),
    "axis.rise": Phrase("perplexity rises by, %", "困惑度上升，%"),
    "status.chosen": Phrase("chosen", "所选"),
    "status.measured": Phrase("measured", "实测"),
    "status.predicted": Phrase("predicted", "预测"),
    "budget": Phrase("budget", "预算"),
    "numbers": Phrase("The numbers", "数据"),
    "name": Phrase("candidate", "候选"),
    "size": Phrase("size", "大小"),
    "mean": Phrase("mean", "均值"),
    "bound": Phrase("bound", "上界"),
    "kl": Phrase("mean KL, nats", "平均 KL，nats"),
    "speed": Phrase("tokens/s", "词元/秒"),
    "how": Phrase("how known", "依据"),
    "layers": Phrase("Bits, block by block", "逐层比特"),
    "layers.caption": Phrase(
        "Bits per weight as stored, scales and padding included; the stronger the colour, the more. "
        "On average {average}.",
        "每个权重实际存储的比特数，含缩放与填充；颜色越浓比特越多。平均 {average}。",
    ),
    "layers.average": Phrase("Bits per weight, on average: {average}.", "每权重平均比特数：{average}。"),
    "layers.summary": Phrase(
        "Bits per weight of {count} groups of matrices, from {low} to {high}.",
        "{count} 组矩阵的每权重比特数，从 {low} 到 {high}。",
    ),
    "axis.block": Phrase("block", "层"),
    "groups": Phrase("groups", "组数"),
    "group": Phrase("group", "组"),
    "format": Phrase("format", "格式"),
    "bits": Phrase("bits", "比特"),
    "bytes": Phrase("bytes", "字节"),
    "kind.query+key+value": Phrase("query, key, value", "查询·键·值"),
    "kind.output": Phrase("output", "输出"),
    "kind.gate+up": Phrase("gate, up", "门控·升维"),
    "kind.down": Phrase("down", "降维"),
    "kind.experts.gate+up": Phrase("experts: gate, up", "专家：门控·升维"),
    "kind.experts.down": Phrase("experts: down", "专家：降维"),
    "kind.embedding": Phrase("embedding", "嵌入"),
    "kind.head": Phrase("output head", "输出头"),
    "kind.kv": Phrase("keys and values", "键值缓存"),
    "kind.rest": Phrase("all else", "其余"),
    "sensitivity": Phrase("Sensitivity", "敏感度"),
    "sensitivity.caption": Phrase(
        "The damage predicted (KL, nats per token) if one group alone had one format: the stronger the "
        "colour, the more it hurts. "
        "A dot marks the format that the group got.",
        "只让一组采用某种格式时预计的损害（KL，nats/词元）；颜色越浓损害越大。圆点标出该组最终采用的格式。",
    ),
    "sensitivity.summary": Phrase(
        "Predicted KL for {count} groups and {formats} formats, from {low} to {high} nats per token.",
        "{count} 组、{formats} 种格式的预计 KL，从 {low} 到 {high} nats/词元。",
    ),
    "roofline": Phrase("The machine's limits", "机器的极限"),
    "roofline.caption": Phrase(
        "No program goes above the roof: what this machine reads from memory ({read}) on the slope, what it "
        "computes in int8 ({compute}) on the flat. Both rates were probed for this report, and drift.",
        "任何程序都无法越过屋顶线：斜线是本机读内存的速度（{read}），平线是 int8 计算的速度（{compute}）。"
        "两个速度都是为本报告临时测得的，会有波动。",
    ),
    "roofline.summary": Phrase(
        "Decoding is bound by {decode_by} at {decode}, reading a prompt by {prefill_by} at {prefill}.",
        "解码受限于{decode_by}，上限 {decode}；读提示受限于{prefill_by}，上限 {prefill}。",
    ),
    "bound.memory": Phrase("memory", "内存"),
    "bound.arithmetic": Phrase("arithmetic", "运算"),
    "regime.decode": Phrase("writing", "写回答"),
    "regime.prefill": Phrase("reading", "读提示"),
    "regime.share": Phrase("{name}, {share} of its limit", "{name}，达上限的 {share}"),
    "axis.intensity": Phrase("operations per byte read", "每读一字节的运算数"),
    "axis.operations": Phrase("operations per second", "每秒运算数"),
    "time": Phrase("Where a token's time goes", "一个词元的时间去向"),
    "time.caption": Phrase(
        "Seconds of one decoded token, {total} in all.",
        "解码一个词元所用的时间，共 {total}。",
    ),
    "time.summary": Phrase(
        "{total}, in {count} parts; most of it: {name}.", "{total}，{count} 部分；最多：{name}。"
    ),
    "errors": Phrase("What changed, token by token", "逐词元的变化"),
    "errors.loss.caption": Phrase(
        "How much worse each token is predicted; to the left of zero, better. Single tokens move both ways; "
        "the claim is about their mean. Beyond the edges: {below} tokens on the left, {above} on the right.",
        "每个词元的预测变差了多少；零点以左为变好。单个词元有升有降，结论针对的是均值。"
        "超出左边界 {below} 个词元，右边界 {above} 个。",
    ),
    "errors.loss.summary": Phrase(
        "Histogram of the loss differences of {tokens} tokens, mean {mean} nats.",
        "{tokens} 个词元损失差异的直方图，均值 {mean} nats。",
    ),
    "errors.kl.caption": Phrase(
        "How far each whole prediction moved (KL divergence). {agreement}Below {floor} nats: {below} tokens.",
        "每次预测的整个分布移动了多少（KL 散度）。{agreement}小于 {floor} nats 的有 {below} 个词元。",
    ),
    "errors.agreement": Phrase(
        "The likeliest next token is the same for {share} of them. ", "{share} 的首选词元不变。"
    ),
    "errors.kl.summary": Phrase(
        "Histogram of the KL divergence of {tokens} tokens, logarithmic.",
        "{tokens} 个词元 KL 散度的直方图，对数刻度。",
    ),
    "axis.difference": Phrase("difference of loss, nats", "损失之差，nats"),
    "axis.kl": Phrase("KL divergence, nats", "KL 散度，nats"),
    "axis.share": Phrase("% of tokens", "词元占比，%"),
    "better": Phrase("← better", "← 变好"),
    "worse": Phrase("worse →", "变差 →"),
    "mean.at": Phrase("mean {value}", "均值 {value}"),
    "bound.at": Phrase("at most {value}", "上界 {value}"),
    "p99.at": Phrase("99% below {value}", "99% 低于 {value}"),
    "samples": Phrase("Side by side", "并排样例"),
    "samples.caption": Phrase(
        "The likeliest continuation, word for word. What both have in common at the start is grey; from the "
        "first token that differs on, texts may part for good without either being worse.",
        "逐词取最可能的续写。开头相同的部分为灰色；从第一个不同的词元起，两边可能从此分道，但不表示哪边更差。",
    ),
    "samples.prompt": Phrase("Prompt", "提示"),
    "samples.same": Phrase("word for word the same", "逐字相同"),
    "use": Phrase("Serve it, verify it", "服务与验证"),
    "use.serve": Phrase(
        "Starts a service that speaks the OpenAI protocol.", "启动一个兼容 OpenAI 协议的服务。"
    ),
    "use.verify": Phrase(
        "Checks every byte and the certificate. With --remeasure CHECKPOINT --data TEXT it measures the "
        "claim again.",
        "检查每一个字节与证书。加上 --remeasure 检查点 --data 文本，可重新测量这一结论。",
    ),
    "copy": Phrase("copy", "复制"),
    "copied": Phrase("copied", "已复制"),
    "measured": Phrase("How this was measured", "测量方法"),
    "measured.method": Phrase(
        "Loss is the negative log-likelihood of the token that came, in nats. The bound is one-sided, at "
        "{confidence} confidence, over {units} {unit} as independent units ({tokens} tokens, windows of "
        "up to {window}). It speaks of text like this text, and of that alone.",
        "损失是实际出现的词元的负对数似然，单位 nats。上界为单侧，置信度 {confidence}，"
        "以 {units} 个{unit}为独立单位（{tokens} 个词元，窗口至多 {window}）。它只对与此相似的文本成立。",
    ),
    "unit.document": Phrase("documents", "文档"),
    "unit.block": Phrase("blocks of text", "文本块"),
    "measured.model": Phrase("Model", "模型"),
    "measured.model.value": Phrase(
        "{name} ({family}, {parameters} million parameters)", "{name}（{family}，{parameters} 百万个参数）"
    ),
    "measured.objective": Phrase("Sought", "目标"),
    "objective.size": Phrase("the smallest that keeps the budget", "守住预算的最小者"),
    "objective.loss": Phrase("the least loss within the budget", "预算之内损失最小者"),
    "objective.latency": Phrase("the fastest to write, within the budget", "预算之内写得最快者"),
    "objective.throughput": Phrase("the most tokens a second, within the budget", "预算之内吞吐最高者"),
    "objective.cost": Phrase("the cheapest per token, within the budget", "预算之内每词元最便宜者"),
    "measured.price": Phrase("; {price} an hour", "；每小时 {price}"),
    "measured.artifact": Phrase("Artifact", "产物"),
    "measured.source": Phrase("Checkpoint", "检查点"),
    "measured.text": Phrase("Text of the claim", "下结论的文本"),
    "measured.text.value": Phrase("{name}, SHA-256 {hash}", "{name}，SHA-256 {hash}"),
    "measured.choice": Phrase("Text to choose by", "挑选用的文本"),
    "measured.machine": Phrase("Machine", "机器"),
    "measured.machine.value": Phrase("{cpu}, {isa}, {threads} threads", "{cpu}，{isa}，{threads} 线程"),
    "measured.load": Phrase("Load", "负载"),
    "measured.load.value": Phrase(
        "{streams} at once, {prompt} tokens of prompt and {output} of answer; 95% of tokens within {p95}",
        "{streams} 路同时，提示 {prompt} 个词元，回答 {output} 个词元；95% 的词元在 {p95} 以内",
    ),
    "measured.versions": Phrase("Versions", "版本"),
    "measured.seed": Phrase("Seed", "种子"),
    "measured.issued": Phrase("Certified", "证书日期"),
    "stage.scores": Phrase("loss by group", "各组损失"),
    "stage.removal": Phrase("removal", "裁剪"),
    "stage.training": Phrase("training", "训练"),
    "stage.candidates": Phrase("candidates", "候选"),
    "stage.claim": Phrase("claim", "求证"),
    "measured.stages": Phrase("Time of the search", "搜索用时"),
    "footer.infeasible": Phrase(
        "Every number on this page is from the record of the search.", "本页所有数字都来自搜索的记录。"
    ),
    "footer.kept": Phrase(
        "Every number on this page is from report.json, which lies beside the artifact's certificate.",
        "本页所有数字都来自与证书放在一起的 report.json。",
    ),
}
